"""What Alembic runs around migrations: always on the connection that ``upgrade`` hands over, inside its transaction."""

from alembic import context

from manyeyes.service.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    compare_type=True,
    # SQLite cannot alter most of a table, so that it is written anew.
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
