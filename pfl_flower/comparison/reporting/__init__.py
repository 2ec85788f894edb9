"""The report of a comparison: a page with tables, pictures and notes."""
