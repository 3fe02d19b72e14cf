"""gin files: which may be code, where they are found, and errors that name file and line."""

import sys
import uuid

import gin
import pytest

from cd_jax.config import library
from cd_jax.config.configuration import Configuration
from cd_jax.errors import RequestError

BOUND = ("AGENT = 'baseline'", "SOURCE = 'babi_qa1'")


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    gin.clear_config()


class Marker:
    """A harmless module that shows that it was imported.

    Attributes:
      name: of the module, another one in every test.
    """

    def __init__(self, folder):
        self.name, self._ran = f"leaves_a_mark_{uuid.uuid4().hex}", folder / "ran"
        module = (
            f"import pathlib\npathlib.Path({str(self._ran)!r}).write_text('ran')\ndef rate(step):\n    return 0.5\n"
        )
        (folder / f"{self.name}.py").write_text(module)

    def code(self, text: str) -> str:
        return text.replace("MODULE", self.name)

    def ran(self) -> bool:
        return self._ran.exists()


@pytest.fixture
def marker(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("modules")
    monkeypatch.syspath_prepend(folder)
    return Marker(folder)


def configure(*files, statements=BOUND, **more):
    Configuration([library.packaged("runs/train.gin"), *map(str, files)], statements, **more).apply()


def refused(*files, statements=BOUND, **more) -> str:
    with pytest.raises(RequestError) as error:
        configure(*files, statements=statements, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


CODE = [
    "import MODULE\n",
    "from MODULE import rate\n",
    "import MODULE as optax\n",
    "from __gin__ import dynamic_registration\nimport MODULE\nfrom cd_jax.solver import solver\n"
    "solver.Solver.learning_rate = @MODULE.rate\n",
    "# A lone carriage return ends a line for Python, too.\rimport MODULE\n",
    "SEED = 3; import MODULE\n",
    "\ufeffimport MODULE\n",
]


@pytest.mark.parametrize(
    ("mark", "name"),
    [("checkpoints", "a.gin"), ("updates.jsonl", "a.gin"), ("results.json", "a.gin"), ("nothing", "config.gin")],
)
@pytest.mark.parametrize("code", CODE)
def test_a_file_of_a_run_must_not_be_code(code, mark, name, tmp_path, marker):
    folder = tmp_path / "run"
    (folder / mark).mkdir(parents=True)
    (folder / name).write_bytes(marker.code(code).encode())
    assert f"{folder}/{name}" in refused(folder / name)
    assert not marker.ran()
    (tmp_path / "link.gin").symlink_to(folder / name)
    refused(tmp_path / "link.gin")
    (tmp_path / "mine.gin").write_text(f"include '{folder}/{name}'\n")
    refused(tmp_path / "mine.gin")
    assert not marker.ran()


def test_what_a_file_of_a_run_includes_must_not_be_code_either(tmp_path, marker):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "elsewhere.gin").write_text(marker.code("\nimport MODULE\n"))
    (tmp_path / "run" / "config.gin").write_text(f"include '{tmp_path}/elsewhere.gin'\n")
    error = refused(tmp_path / "run" / "config.gin")
    assert f"{tmp_path}/elsewhere.gin:2: `import {marker.name}` runs code" in error
    assert "--trust_gin" in error
    assert not marker.ran()


def test_a_file_of_a_run_must_not_start_commands(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for value in ("@distill()", "@a/cd_jax.distill.distill()", "[@train]"):
        (tmp_path / "config.gin").write_text(f"Solver.optimizer = {value}\n")
        assert f"{tmp_path}/config.gin:1: @" in refused(tmp_path / "config.gin")


# gin imports modules alone: the second names a function.
@pytest.mark.parametrize("code", [CODE[0], *CODE[2:4]])
@pytest.mark.parametrize("trust", [True, False])
def test_trusted_and_ones_own_files_may_be_code(code, trust, tmp_path, marker):
    (tmp_path / "mine.gin").write_text(marker.code(code))
    if trust:
        (tmp_path / "checkpoints").mkdir()
    configure(tmp_path / "mine.gin", trust=trust)
    assert marker.ran()


def test_a_config_that_our_programs_write_needs_no_trust(tmp_path):
    configure()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.gin").write_text(gin.config_str())
    configure(tmp_path / "config.gin", statements=())
    assert gin.query_parameter("AGENT/macro.value") == "baseline"


def test_dynamic_registration_binds_what_no_one_registered(tmp_path, marker):
    (tmp_path / "mine.gin").write_text(marker.code(CODE[3]))
    configure(tmp_path / "mine.gin")
    assert gin.query_parameter("Solver.learning_rate").configurable.wrapped.__module__ == marker.name


def test_what_was_registered_so_comes_back_from_the_runs_own_config(tmp_path, marker):
    (tmp_path / "mine.gin").write_text(marker.code(CODE[3]))
    configure(tmp_path / "mine.gin")
    (tmp_path / "config.gin").write_text(gin.config_str())
    assert "runs code" in refused(tmp_path / "config.gin")
    configure(tmp_path / "config.gin", statements=(), trust=True)
    assert gin.query_parameter("Solver.learning_rate").configurable.wrapped.__module__ == marker.name
    assert gin.query_parameter("AGENT/macro.value") == "baseline"


def test_the_working_folder_does_not_replace_files_of_ours(tmp_path, marker, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data.gin").write_text(marker.code("import MODULE\n"))
    (tmp_path / "runs" / "train.gin").write_text(marker.code("import MODULE\n"))
    monkeypatch.chdir(tmp_path)
    configure()
    assert not marker.ran()


def test_search_paths(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.gin").write_text("include 'two.gin'\n")
    (tmp_path / "a" / "two.gin").write_text("SEED = 7\n")
    with pytest.raises(RequestError, match="one.gin: no such gin file"):
        library.find("one.gin")
    assert "two.gin" in refused(tmp_path / "a" / "one.gin")
    configure(library.find("one.gin", [str(tmp_path / "a")]), search_paths=[str(tmp_path / "a")])
    assert gin.query_parameter("SEED/macro.value") == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ninclude '{}/mine.gin'\n", ["mine.gin:2: includes", "includes this file"]),
        ("include 'nowhere.gin'\n", ["mine.gin:1: includes 'nowhere.gin'", "--gin_search_paths"]),
        ("\ntrain.batch_size = %BATCH_SIZ\n", ["mine.gin:2: %BATCH_SIZ is not bound", "%BATCH_SIZE?"]),
        ("SEED = %SEED\n", ["SEED = %SEED: goes round"]),
        ("SEED = %BATCH_SIZE\nBATCH_SIZE = %SEED\n", ["%BATCH_SIZE = %SEED", "goes round"]),
        ("SEED = 3 4\n", ["mine.gin:1: not a value"]),
        ("\nSEED = [1,\n", ["mine.gin:", "brackets must close"]),
        ("SEED = abc\n", ["mine.gin:1: not a value"]),
        ("SEED = " + "[" * 3000 + "]" * 3000 + "\n", ["mine.gin", "nested too deep"]),
        ("\ntrain.sed = 3\n", ["mine.gin:2: ", "'sed'"]),
        ("\ntrian.seed = 3\n", ["mine.gin:2: ", "'trian'"]),
        ("\nSEDE = 3\n", ["mine.gin:2: SEDE: nothing reads this macro; did you mean SEED?"]),
        ("SEED = 3 # \xff", ["mine.gin", "not text in UTF-8 (byte 11)"]),
        ("\nfrom nowhere_at_all import x\n", ["mine.gin:2: ", "nowhere_at_all"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text, words, tmp_path):
    (tmp_path / "mine.gin").write_bytes(text.replace("{}", str(tmp_path)).encode("latin-1"))
    error = refused(tmp_path / "mine.gin")
    for word in words:
        assert word in error


def test_of_files_that_include_one_another_the_inner_one_is_named(tmp_path):
    (tmp_path / "outer.gin").write_text(f"\ninclude '{tmp_path}/inner.gin'\n")
    (tmp_path / "inner.gin").write_text("\n\ntrain.sed = 3\n")
    error = refused(tmp_path / "outer.gin")
    assert error.startswith(f"{tmp_path}/inner.gin:3: ")
    assert "outer.gin" not in error


def test_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "mine.gin").write_text("\ufeffSEED = 7\n")
    configure(tmp_path / "mine.gin")
    assert gin.query_parameter("SEED/macro.value") == 7


def test_a_file_may_bind_what_a_macro_was_for(tmp_path):
    (tmp_path / "mine.gin").write_text("train.batch_size = 7\n")
    configure(tmp_path / "mine.gin")
    assert gin.query_parameter("train.batch_size") == 7


# The file of the agent


MINE = ("AGENT = 'mine'", "SOURCE = 'babi_qa1'")


def agent_file(folder, text, name="mine"):
    (folder / "agents").mkdir(parents=True, exist_ok=True)
    (folder / "agents" / f"{name}.gin").write_text(text)


def value(macro: str):
    return gin.query_parameter(f"{macro}/macro.value")


@pytest.mark.parametrize("place", ["working folder", "search path"])
def test_the_agents_file_is_read_before_all_but_the_first(place, tmp_path, monkeypatch):
    agent_file(tmp_path, "SEED = 7\nBATCH_SIZE = 7\nNUM_QUERIES = 7\nANSWER_WEIGHT = 7.0\n")
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 8\n")
    search_paths = [str(tmp_path)] if place == "search path" else []
    if not search_paths:
        monkeypatch.chdir(tmp_path)
    more = ("NUM_QUERIES = 9",)
    configure(tmp_path / "mine.gin", statements=(*MINE, *more), search_paths=search_paths)
    assert [value(name) for name in ("SEED", "BATCH_SIZE", "NUM_QUERIES", "ANSWER_WEIGHT")] == [7, 8, 9, 7.0]


def test_the_last_word_on_the_agent_counts_wherever_it_stands(tmp_path):
    agent_file(tmp_path, "SEED = 7\n")
    (tmp_path / "inner.gin").write_text("NAMED = 'mine'\ntrain.arm = %NAMED\nAGENT = %NAMED\n")
    (tmp_path / "outer.gin").write_text(f"AGENT = 'nobody'\ninclude '{tmp_path}/inner.gin'\n")
    configure(tmp_path / "outer.gin", statements=BOUND[1:], search_paths=[str(tmp_path)])
    assert value("SEED") == 7
    configure(tmp_path / "outer.gin", statements=BOUND, search_paths=[str(tmp_path)])
    assert value("SEED") == 0


@pytest.mark.parametrize("name", ["", "%ARM"])
def test_an_empty_agent_reads_nothing(name):
    bound = name if name.startswith("%") else repr(name)
    configure(statements=(f"AGENT = {bound}", BOUND[1]))
    assert gin.query_parameter("train.agent")


@pytest.mark.parametrize("name", ["nobody", "../mine", "agents/mine"])
def test_an_unknown_agent_is_refused_with_those_that_there_are(name, tmp_path):
    agent_file(tmp_path, "import never\n")
    error = refused(statements=(f"AGENT = {name!r}", BOUND[1]), search_paths=[str(tmp_path)])
    known = "answer_from_memory, baseline, cd_finetune, cd_memory, mine, neighbours, own_chains"
    assert f"AGENT={name!r} is none of {known}; bind --gin.AGENT=" in error


def test_the_users_own_agent_may_be_code(tmp_path, marker):
    agent_file(tmp_path, marker.code("import MODULE\n"))
    configure(statements=MINE, search_paths=[str(tmp_path)])
    assert marker.ran()


@pytest.mark.parametrize("where", ["in the run", "beside the run"])
def test_an_agent_of_a_run_must_not_be_code(where, tmp_path, marker, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    agent_file(run if where == "in the run" else tmp_path, marker.code("\nimport MODULE\n"))
    (run / "config.gin").write_text("AGENT = 'mine'\n")
    monkeypatch.chdir(run if where == "in the run" else tmp_path)
    # Chosen by the run's config.gin, or lying in the run: either will do.
    files, bound = ([], MINE) if where == "in the run" else ([run / "config.gin"], BOUND[1:])
    assert "mine.gin:2: `import " in refused(*files, statements=bound)
    assert not marker.ran()
    configure(*files, statements=bound, trust=True)
    assert marker.ran()


# A value that is applied again


def test_nothing_is_left_of_what_was_applied_before():
    base = Configuration([library.packaged("runs/train.gin")], BOUND)
    more = base.with_statements("SEED = 7", "Budget.steps = 3")
    more.apply()
    assert (value("SEED"), gin.query_parameter("Budget.steps")) == (7, 3)
    base.apply()
    assert value("SEED") == 0
    assert str(gin.query_parameter("Budget.steps")) == "%TRAIN_STEPS"
    assert more.with_statements("SEED = 8").statements == (*BOUND, "SEED = 7", "Budget.steps = 3", "SEED = 8")
