"""What a finished job is exported as: tables, folders and shards that other programs open.

``export`` is the one entrance; each format is one module, and one line in ``export.FORMATS``.
"""
