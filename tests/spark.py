"""Spark for checks: pyspark in a folder of its own beside our environment, and what runs there.

As a script, `spark.py FOLDER`, it runs each statement FOLDER/NAME.sql over FOLDER/NAME.parquet and
writes FOLDER/NAME-derived.parquet, a folder.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYSPARK = "pyspark==4.3.0"


def install(folder):
    """Put pyspark into a folder -> the environment in which our Python finds it."""
    assert shutil.which("java"), (
        "Java is missing, which Spark needs: apt-get install default-jre-headless"
    )
    words = ["pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words, PYSPARK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"{PYSPARK} cannot be installed, which this check needs; an index that has it can be named "
        f"by UV_INDEX_URL: {done.stderr}"
    )
    return os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "TZ": "America/New_York",  # the statement asks for UTC in its session: nothing else counts
    }


def run(environment, *words):
    """Run a Python script with Spark at hand; its output is in the message if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def derive(folder):
    """Run all statements of a folder, in one session."""
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sql("SET TIME ZONE 'UTC'")
    for statement in sorted(folder.glob("*.sql")):
        name = statement.stem
        spark.read.parquet(str(folder / f"{name}.parquet")).createOrReplaceTempView(name)
        derived = spark.sql(statement.read_text())
        derived.write.parquet(str(folder / f"{name}-derived.parquet"))
    spark.stop()


if __name__ == "__main__":
    derive(Path(sys.argv[1]))
