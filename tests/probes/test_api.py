"""What `import probes` gives, whatever was imported before it."""

import subprocess
import sys

import probes


def test_the_names_are_there_and_are_functions():
    for name in ("load_model", "record", "analyze", "open_trace", "import_npz"):
        assert callable(getattr(probes, name)), name
    assert probes.metrics.load
    assert "olmoe" in probes.families.families()
    assert "ban" in probes.interventions.interventions()


def test_importing_it_costs_nothing():
    code = "import probes, sys; print({'torch', 'pandas', 'duckdb', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_no_module_hides_a_function():
    """A submodule of the same name would replace the function as soon as anything imports it."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(probes.__path__)}
    assert not modules & (set(probes.__all__) - {"families", "interventions", "metrics", "__version__"})


def test_an_editor_sees_the_names_before_they_are_used():
    """In a fresh process: nothing heavy is imported to list them."""
    code = "import sys, probes; print(*dir(probes)); assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(probes.__all__) <= set(done.stdout.split())
