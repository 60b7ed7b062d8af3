"""A Report drawn as text, JSON, Markdown; redaction."""
