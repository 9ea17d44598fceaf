"""Does the model still speak? Five benchmarks by lm-evaluation-harness, and their comparison between models."""

from sempa_utils.evaluation.generation.harness import (
    CHANCE,
    TASKS,
    BenchmarkResult,
    Benchmarks,
    Task,
    check_tasks,
    comparison,
    evaluate,
)

__all__ = ["CHANCE", "TASKS", "BenchmarkResult", "Benchmarks", "Task", "check_tasks", "comparison", "evaluate"]
