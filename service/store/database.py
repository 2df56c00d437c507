"""The database behind the store: connections, transactions, and errors that say what is wrong with it."""

from __future__ import annotations


class Database:
    """One database, as SQLAlchemy's engine."""
