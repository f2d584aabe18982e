"""The leaderboard's own checker, where it is installed."""

import importlib.util
import sys
import types

import pytest


@pytest.fixture(scope="session")
def official():
    """Function: the official verdict on calls; skips where bfcl-eval is not installed."""
    if importlib.util.find_spec("bfcl_eval") is None:
        pytest.skip("the official checker is not installed: pip install --no-deps bfcl-eval")
    # Its list of models imports the clients of all their makers; the checker looks up one fact.
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {"model": types.SimpleNamespace(underscore_to_dot=False)}
    sys.modules[models.__name__] = models
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    languages = {"simple_java": Language.JAVA, "simple_javascript": Language.JAVASCRIPT}

    def verdict(functions, calls, accepted, category):
        language = languages.get(category, Language.PYTHON)
        written = [{name: dict(arguments)} for name, arguments in calls]
        return ast_checker(functions, written, accepted, language, category, "model")["valid"]

    return verdict
