"""Experts: models through `transformers`, a server, files. Heavy imports happen in `load`, never at import."""
