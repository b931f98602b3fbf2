"""The experiments as pages: tables, figures, notes."""
