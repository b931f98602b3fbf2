"""Requests to responses, without knowledge of any server."""
