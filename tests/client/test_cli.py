"""The commands: what they print and write, and one line and an exit code for what goes wrong."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from metavae_client.cli import main
from metavae_client.errors import ModelNotNamed
from metavae_client.files import read_summary
from metavae_client.probe_command import default_model

DIGITS = ["--family", "digits-rotation", "--split", "contiguous"]
SIZES = ["--train-size", "200", "--test-size", "100"]
PROBE = ["probe", *DIGITS, *SIZES, "--contexts", "2", "--context-size", "20"]


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """Call the command line against the real server, in a folder of its own."""
    monkeypatch.setenv("METAVAE_URL", server.url)
    monkeypatch.setenv("METAVAE_TOKEN_FILE", str(server.token_file))

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def files(tmp_path, images) -> Path:
    """Images in files: arrays, a folder of pictures, and things that are neither."""
    np.save(tmp_path / "queries.npy", images[:20])
    np.save(tmp_path / "context.npy", images[20:70, 0])
    np.save(tmp_path / "empty.npy", images[:0])
    np.save(tmp_path / "wide.npy", np.zeros((2, 28, 32), np.uint8))
    np.save(tmp_path / "coloured.npy", np.zeros((2, 3, 28, 28), np.uint8))
    np.save(tmp_path / "whole.npy", images[:2].astype(np.int64))
    np.save(tmp_path / "nan.npy", np.full((2, 28, 28), np.nan, np.float32))
    np.save(tmp_path / "bright.npy", images[:2].astype(np.float32))
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "digits.pgm").write_bytes(b"P5 28\x01 28 255 ")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "nothing").mkdir()
    for row in range(20):
        picture = Image.fromarray(images[row, 0])
        picture.convert("RGB").save(tmp_path / "pictures" / f"{row:02}.png")
    Image.fromarray(images[0, 0]).resize((32, 32)).save(tmp_path / "large.png")
    Image.fromarray(images[0, 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    return tmp_path


def in_one_line(result: Result, code: int = 1) -> str:
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_embed_writes_the_embeddings_of_the_model(client, files, local, images):
    result = client("embed", "queries.npy", "--context", "context.npy", "--out", "z.npy")
    assert result.exit_code == 0
    assert result.stdout.startswith("wrote z.npy: 20 embeddings of ")
    assert result.stdout.endswith(" numbers, under a context of 50 images\n")
    expected = local.embed(images[:20], local.summarize(images[20:70]))
    assert np.array_equal(np.load("z.npy"), expected.mean)


def test_pictures_in_a_folder_are_images_in_the_order_of_their_names(client, files):
    client("embed", "queries.npy", "--context", "context.npy", "--out", "z.npz")
    client("embed", "pictures", "--context", "context.npy", "--out", "pictures.npz")
    with np.load("z.npz") as array, np.load("pictures.npz") as pictures:
        assert np.array_equal(array["mean"], pictures["mean"])
        assert np.array_equal(array["log_variance"], pictures["log_variance"])
        assert array["image"].tolist() == [f"queries.npy[{row}]" for row in range(20)]
        assert pictures["image"].tolist() == sorted(map(str, Path("pictures").iterdir()))


def test_a_summary_made_once_stands_for_its_context(client, files, local, images):
    assert client("summarize", "context.npy", "--out", "s.npz").exit_code == 0
    assert read_summary(Path("s.npz")) == local.summarize(images[20:70])
    by_summary = client("embed", "queries.npy", "--summary", "s.npz", "--json")
    by_context = client("embed", "queries.npy", "--context", "context.npy", "--json")
    assert json.loads(by_summary.stdout) == json.loads(by_context.stdout)


def test_without_out_each_embedding_is_a_line_with_the_name_of_its_image(client, files, local):
    result = client("embed", "queries.npy", "--context", "context.npy")
    named = json.loads(client("embed", "queries.npy", "--context", "context.npy", "--json").stdout)
    assert named["image"][3] == "queries.npy[3]"
    assert len(named["image"]) == len(named["embedding"])
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [image for image, *_ in rows] == named["image"]
    assert np.array([row[1:] for row in rows], float).shape == (20, local.card.latent_dim)


def test_without_url_the_server_over_the_store_is_found(client, server, local, monkeypatch):
    monkeypatch.delenv("METAVAE_URL")
    monkeypatch.delenv("METAVAE_TOKEN_FILE")
    monkeypatch.setenv("METAVAE_STORE", str(server.store.path))
    assert client("models").stdout.split()[0] == local.card.name


def test_models_lists_what_is_served(client, local):
    assert client("models").stdout.split()[0] == local.card.name
    assert json.loads(client("models", "--json").stdout)[0]["name"] == local.card.name


def test_models_of_no_server_names_the_address_that_was_given(client):
    line = in_one_line(client("models", "--url", "http://127.0.0.1:9"))
    assert "no server answers at http://127.0.0.1:9 " in line


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_models_of_a_server_whose_management_is_elsewhere_says_so(
    client, monkeypatch, server, answers
):
    monkeypatch.setattr("metavae_client.transport.catalogue._SOON", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers else 9
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(
            "metavae_client.transport.catalogue.management_url", lambda url: address
        )
        line = in_one_line(client("models"))
    assert f"the server at {server.url} does not tell what it serves" in line
    assert "--management-url" in line


def test_probe_prints_a_table_and_draws_it(client):
    result = client(*PROBE, "--plot", "probe.png")
    assert result.exit_code == 0, result.output
    assert "raw pixels" in result.stdout
    assert "±" in result.stdout
    with Image.open("probe.png") as picture:
        assert picture.format == "PNG"


def test_probe_needs_no_server_in_process_and_prints_the_same(client, local, bundle, monkeypatch):
    served = client(*PROBE, "--json", "--no-floors")
    monkeypatch.setenv("METAVAE_ZOO", str(bundle.path.parent))
    monkeypatch.setenv("METAVAE_URL", "http://127.0.0.1:9")
    here = client(*PROBE, "--json", "--no-floors", "--in-process")
    assert here.exit_code == 0, here.output
    assert here.stdout == served.stdout


def test_every_protocol_can_be_asked_for(client, tmp_path):
    for options, words in (
        (["transfer"], "one logistic regression for all values"),
        (["few-shot", "--shots", "1,2", "--label-draws", "2"], "2 labels per class"),
        (["knn", "--neighbours", "3"], "3 nearest neighbours"),
    ):
        arguments = [*DIGITS, *SIZES, "--no-floors", "--protocol", *options]
        result = client("probe", *arguments, "--plot", "probe.svg")
        assert result.exit_code == 0, result.output
        assert words in result.stdout.lower()
        assert (tmp_path / "probe.svg").is_file()


def test_probe_of_a_server_with_several_models_takes_the_usual_one(monkeypatch):
    def several(*_: object, **__: object) -> str:
        raise ModelNotNamed("it serves two")

    monkeypatch.setattr("metavae_client.transport.catalogue.only_name", several)
    found = CliRunner().invoke(main, ["probe", "--split", "sparse", "--url", "http://127.0.0.1:9"])
    assert "no server answers" in found.stderr
    assert default_model("usual", "http://127.0.0.1:9", None, False) == "usual"
    assert default_model("usual", None, None, True) == "usual"


@pytest.mark.parametrize("source", ["other", "shuffled", "zeros"])
def test_a_wrong_context_can_be_asked_for_and_is_told(client, source):
    arguments = [*DIGITS, *SIZES, "--no-floors", "--json", "--context-from", source]
    found = json.loads(client("probe", *arguments).stdout)
    assert (found["context_from"], found["test_context_from"]) == (source, source)
    assert found["record"] is None


def test_a_wrong_context_of_the_tested_images_alone_can_be_asked_for(client):
    arguments = [*DIGITS, *SIZES, "--no-floors", "--test-context-from", "zeros", "--contexts", 1]
    found = client("probe", *arguments)
    assert found.exit_code == 0, found.output
    assert "contexts: own where fitted, zeros where tested" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shots", "1"], "--shots is for --protocol few-shot, not for linear"),
        (["--protocol", "knn", "--label-draws", "3"], "--label-draws is for --protocol few-shot"),
        (["--protocol", "transfer", "--neighbours", "3"], "--neighbours is for --protocol knn"),
        (
            ["--protocol", "few-shot", "--contexts", "3"],
            "--contexts is not for --protocol few-shot",
        ),
        (["--protocol", "few-shot", "--shots", "1,many"], "'--shots': '1,many'"),
        (["--protocol", "few-shot", "--label-draws", "0"], "'--label-draws': 0"),
        (["--protocol", "knn", "--neighbours", "0"], "'--neighbours': 0"),
        (["--protocol", "linaer"], "'--protocol'"),
        (["--context-from", "nowhere"], "'--context-from'"),
        (["--test-context-from", "nowhere"], "'--test-context-from'"),
        (["--floor", "roof"], "'--floor'"),
        (["--floor", "pca", "--no-floors"], "--floor or --no-floors"),
        (["--context-from", "zeros", "--context-size", "5"], "--context-size is not for"),
        (["--context-from", "zeros", "--contexts", "5"], "--contexts is not for"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage_and_named(arguments, words):
    result = CliRunner().invoke(main, ["probe", "--split", "contiguous", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ("empty.npy", "queries is empty"),
        ("wide.npy", "[2, 28, 32], expected [N, 28, 28]"),
        ("coloured.npy", "[2, 3, 28, 28], expected"),
        ("whole.npy", "int64, expected uint8"),
        ("nan.npy", "NaN"),
        ("bright.npy", "expected 0 to 1"),
        ("text.npy", "cannot be read as an array"),
        ("text.png", "cannot be read as a picture"),
        ("digits.pgm", "cannot be read as a picture"),
        ("large.png", "is 32x32"),
        ("deep.png", "8 bits per channel"),
        ("nothing", "has no pictures"),
        ("absent.npy", "No such file"),
    ],
)
def test_bad_queries_are_one_line(client, files, queries, words):
    assert words in in_one_line(client("embed", queries, "--context", "context.npy"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "got none"),
        (["--context", "empty.npy"], "context is empty"),
        (["--summary", "context.npy"], "cannot be read as a summary"),
        (["--context", "context.npy", "--out", "absent/z.npy"], "cannot be written"),
        (["--context", "context.npy", "--out", "z.txt"], "does not end in .npy"),
        (["--context", "context.npy", "--model", "nope"], "does not serve model 'nope'"),
        (["--context", "context.npy", "--url", "http://127.0.0.1:9"], "no server answers"),
        (["--context", "context.npy", "--url", "here"], "not the URL"),
        (["--context", "context.npy", "--token-file", "absent.json"], "token file"),
    ],
)
def test_bad_options_of_embed_are_one_line(client, files, arguments, words):
    assert words in in_one_line(client("embed", "queries.npy", *arguments))


def test_a_summary_of_another_model_is_one_line(client, files, local):
    np.savez("s.npz", total=np.zeros(local.card.feature_dim), count=1, model="another")
    line = in_one_line(client("embed", "queries.npy", "--summary", "s.npz"))
    assert "made by model another" in line


@pytest.mark.parametrize(("name", "words"), [("wrong", "refuses"), ("", "wants a token")])
def test_a_wrong_or_missing_token_is_one_line(client, files, monkeypatch, name, words):
    monkeypatch.delenv("METAVAE_TOKEN_FILE")
    monkeypatch.setenv("METAVAE_TOKEN", name)
    assert words in in_one_line(client("embed", "queries.npy", "--context", "context.npy"))


@pytest.mark.parametrize("command", [["models"], ["embed", "queries.npy"]], ids=lambda one: one[0])
def test_an_inference_token_alone_cannot_list_models_and_the_reason_is_one_line(
    client, files, server, monkeypatch, command
):
    token = server.headers()["Authorization"].removeprefix("Bearer ")
    monkeypatch.delenv("METAVAE_TOKEN_FILE")
    monkeypatch.setenv("METAVAE_TOKEN", token)
    line = in_one_line(client(*command))
    assert "wants the management token and not the inference one" in line
    assert "refuses the token that was given (METAVAE_TOKEN)" in line
    assert "key_file.json, which holds both, as --token-file" in line
    assert token not in line
    assert ("--model NAME" in line) == (command[0] == "embed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "contigous"], "did you mean 'contiguous'"),
        (["--split", "contiguous", "--family", "digit"], "no family 'digit'"),
        (
            ["--split", "sparse", "--family", "digits-rotation"],
            "was trained on the contiguous split",
        ),
        (["--split", "contiguous", "--plot", "probe.gif"], ".png, .svg, .pdf"),
        (["--split", "contiguous", "--plot", "absent/probe.png"], "there is no folder"),
        ([*DIGITS, "--train-size", "9999"], "has 1297 images"),
        ([*DIGITS, "--protocol", "few-shot", "--shots", "0"], "--shots is 0"),
        ([*DIGITS, "--protocol", "few-shot", "--shots", "1,500"], "--shots has 500"),
        ([*DIGITS, "--protocol", "knn", "--neighbours", "1298"], "--neighbours is 1298"),
    ],
)
def test_bad_options_of_probe_are_one_line(client, arguments, words):
    assert words in in_one_line(client("probe", *arguments))


def test_a_probe_of_another_split_is_one_line(client, local):
    line = in_one_line(
        client(
            "probe", "--family", "digits-rotation", "--split", "sparse", "--model", local.card.name
        )
    )
    assert "was trained on the contiguous split" in line


@pytest.mark.parametrize(
    "arguments", [["embed"], ["probe"], ["summarize", "q.npy"], ["probe", "--contexts", "none"]]
)
def test_wrong_usage_exits_with_2(arguments):
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_context_and_summary_together_are_wrong_usage(files):
    both = ["embed", "queries.npy", "--context", "context.npy", "--summary", "s.npz"]
    assert CliRunner().invoke(main, both).exit_code == 2


@pytest.mark.parametrize("command", [[], ["embed"], ["summarize"], ["models"], ["probe"]])
def test_every_command_explains_itself(command):
    assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0


def test_the_readmes_example_runs_as_it_stands(server, local, images, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [example] = re.findall(r"```python\n(.*?RemoteEmbedder.*?)```", readme, re.DOTALL)
    address, model = re.findall(r'RemoteEmbedder\("(.*?)", "(.*?)"\)', example)[0]
    example = example.replace(address, server.url).replace(model, local.card.name)
    monkeypatch.setenv("METAVAE_TOKEN_FILE", str(server.token_file))
    names: dict[str, Any] = {"ten_images": images[:10, 0], "images": images[50:70, 0]}
    exec(example, names)  # noqa: S102
    expected = local.embed(images[50:70], local.summarize(images[:10]))
    assert np.array_equal(names["embeddings"], expected.mean)


def test_the_installed_command_exits_with_1_and_one_line(files):
    program = Path(sysconfig.get_path("scripts")) / "metavae-client"
    done = subprocess.run(
        [program, "probe", "--split", "contiguous", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no server answers at http://127.0.0.1:9")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def of_site(site_server, monkeypatch):
    """Call the command line against a server whose model infers a site."""
    monkeypatch.setenv("METAVAE_URL", site_server.url)
    monkeypatch.setenv("METAVAE_MODEL", site_server.embedder.card.name)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


def test_summarize_says_what_the_site_is(of_site, files):
    result = of_site("summarize", "context.npy", "--site")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        r"rotated by 43 degrees counter-clockwise, 1\.2 times larger, (moved by \S+ pixels, )?"
        r"sure to [34] degrees\n",
        result.stdout,
    )
    assert result.stderr == ""
    assert not Path("s.npz").exists()
    with_file = of_site("summarize", "context.npy", "--site", "--out", "s.npz")
    assert with_file.stdout.splitlines()[1:] == result.stdout.splitlines()
    assert read_summary(Path("s.npz")).count == 50


def test_the_numbers_of_a_site_go_by_their_names(of_site, files, site_server):
    told = json.loads(of_site("summarize", "context.npy", "--site", "--json").stdout)
    card = site_server.embedder.card
    assert list(told["site"]) == [parameter.name for parameter in card.site]
    assert told["site"]["warp_xx"] == pytest.approx(1.2 * np.cos(np.deg2rad(43)))
    assert told["description"].startswith("rotated by 43 degrees")
    assert (told["count"], told["model"]) == (50, card.digest)
    plain = json.loads(of_site("summarize", "context.npy", "--out", "s.npz", "--json").stdout)
    assert list(plain) == ["out", "count", "model"]


def test_a_context_that_tells_little_of_its_site_is_warned_of(of_site, files, images):
    np.save("one.npy", images[:1])
    summarized = of_site("summarize", "one.npy", "--out", "s.npz")
    by_context = of_site("embed", "queries.npy", "--context", "one.npy", "--out", "z.npy")
    by_summary = of_site("embed", "queries.npy", "--summary", "s.npz", "--out", "z.npy")
    for result in (summarized, by_context, by_summary):
        assert result.exit_code == 0, result.output
        [few] = result.stderr.splitlines()
        assert few.startswith("Warning: a context of 1 image says little of its site")
    enough = of_site("embed", "queries.npy", "--context", "context.npy", "--out", "z.npy")
    assert enough.stderr == ""


def test_an_image_that_is_repeated_counts_once(of_site, files, images):
    np.save("repeated.npy", np.repeat(images[:2], 10, axis=0))
    result = of_site("summarize", "repeated.npy", "--site")
    repeated, few = result.stderr.splitlines()
    assert repeated.startswith("Warning: of the 20 images of the context 2 differ")
    assert few.startswith("Warning: a context of 2 images says little of its site")


def test_queries_that_show_nothing_are_told(of_site, files, images):
    queries = images[:3].copy()
    queries[1] = 7
    np.save("blank.npy", queries)
    result = of_site("embed", "blank.npy", "--context", "context.npy", "--out", "z.npy")
    assert result.exit_code == 0, result.output
    assert "Warning: 1 of 3 queries show nothing once the site is taken out" in result.stderr


def test_the_site_of_a_model_that_infers_none_is_told_before_any_image_is_read(client, files):
    line = in_one_line(client("summarize", "missing.npy", "--site"))
    assert "infers no site" in line


def test_summarize_wants_somewhere_to_put_the_summary_or_the_site(client, files):
    result = client("summarize", "context.npy")
    assert result.exit_code == 2
    assert "Missing option '--out' (or --site)" in result.stderr
