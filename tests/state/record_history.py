"""Records the stored history of a task's workflow: `python record_history.py DATABASE_URL TASK_ID FILE`.

Run it against a stack of the version whose histories later code must still be able to replay. Never record again
over a file: what it holds is how that version behaved.
"""

import json
import sys
from pathlib import Path

import sqlalchemy as sa

TABLES = {
    "workflow_status": "workflow_uuid = :id OR workflow_uuid LIKE :children",
    "workflow_input": "workflow_uuid = :id",
    "operation_outputs": "workflow_uuid = :id",
    "workflow_output": "workflow_uuid LIKE :children",
}


def record(url: str, task_id: str, file: Path) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = {
            table: [
                dict(row._mapping)
                for row in connection.execute(
                    sa.text(f"SELECT * FROM dbos.{table} WHERE {where}"), {"id": task_id, "children": f"{task_id}/%"}
                )
            ]
            for table, where in TABLES.items()
        }
    engine.dispose()
    file.write_text(json.dumps({"task": task_id, "tables": rows}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
