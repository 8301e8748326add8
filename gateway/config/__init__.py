"""A config.yaml written for LiteLLM: read, reported key by key, and loaded into the database (load.py)."""

from gateway.config.examination import Config, Examination, examine_config, read_config
from gateway.config.model_list import DeploymentEntry
from gateway.config.report import ConfigInvalid, Kind, Problem, Report

__all__ = [
    "Config",
    "ConfigInvalid",
    "DeploymentEntry",
    "Examination",
    "Kind",
    "Problem",
    "Report",
    "examine_config",
    "read_config",
]
