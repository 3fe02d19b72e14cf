"""What a verb is."""

import subprocess
import sys

import pytest

from cd_jax import verbs
from cd_jax.config import library


def test_the_verbs_are_in_their_order():
    expected = ["demo", "tasks", "distill", "train", "remember", "eval", "infer", "import", "export", "aot", "report"]
    assert list(verbs.find()) == expected
    places = [verb.place for verb in verbs.find().values()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", verbs.find())
def test_the_gin_file_of_a_verb_comes_with_cd_jax(name):
    verb = verbs.find()[name]
    assert not verb.gin_file or library.packaged(verb.gin_file)


def test_verbs_are_found_without_what_is_heavy(user_environment):
    program = (
        "import sys; from cd_jax import verbs; verbs.find(); print(sorted({'jax', 'gin', 'numpy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], env=user_environment, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("[]\n", "")
