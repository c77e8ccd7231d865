"""One reader for each file format: a file in, documents and skipped items out."""
