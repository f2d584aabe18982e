import subprocess
import sys
import textwrap
import threading
import time

import mlx.core as mx
import pytest

from afm_mlx import compat


def in_new_process(program):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_mlx_lm_leaves_the_limit_of_open_files_as_it_was():
    program = """
        import resource
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        from afm_mlx import compat
        compat.import_mlx_lm("mlx_lm.generate")
        after = resource.getrlimit(resource.RLIMIT_NOFILE)
        print(before == after, resource.setrlimit.__name__)
    """
    assert in_new_process(program) == "True setrlimit"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS needs no other BLAS")
def test_tuned_blas_is_loaded_before_mlx_and_not_after():
    first = "import afm_mlx; from afm_mlx import compat; import mlx.core; print(compat.load_blas())"
    after = "import mlx.core; import afm_mlx; from afm_mlx import compat; print(compat.load_blas())"
    assert in_new_process(after) == ""
    if not in_new_process(first):
        pytest.skip("no tuned BLAS on this machine")


def test_importing_the_package_imports_no_heavy_package():
    program = """
        import sys
        import afm_mlx
        print(sorted({"mlx", "mlx_lm", "numpy", "pydantic"} & set(sys.modules)))
    """
    assert in_new_process(program) == "[]"


def test_memory_settings_are_put_back():
    before = mx.set_cache_limit(12_345_678)
    with compat.memory_settings():
        pass
    assert mx.set_cache_limit(before) == 12_345_678


def test_device_memory_is_plausible():
    assert 2**30 < compat.device_memory_bytes() < 2**43


def test_compute_format_follows_the_device_unless_it_is_named():
    expected = mx.bfloat16 if compat.on_gpu() else mx.float32
    assert compat.compute_dtype("device") == expected
    assert compat.compute_dtype("bfloat16") == mx.bfloat16
    assert compat.compute_dtype("float32") == mx.float32


def test_work_on_the_models_thread_goes_on_after_an_error_and_gets_the_same_thread(capsys):
    idents = []

    def work(fails=False):
        idents.append(threading.get_ident())
        if fails:
            raise ValueError("on purpose")

    for fails in (False, True, False):
        thread = compat.ModelThread(lambda fails=fails: work(fails))
        thread.join()
        assert not thread.is_alive
        while not compat.ModelThread._idle:  # it is free a moment after its work has ended
            time.sleep(0.001)
    assert len(set(idents)) == 1
    assert threading.get_ident() not in idents
    assert "ValueError: on purpose" in capsys.readouterr().err


def test_work_may_wait_for_itself_and_two_have_two_threads():
    both, idents = threading.Barrier(2, timeout=30), []

    def work():
        both.wait()
        idents.append(threading.get_ident())
        threads[0].join() if threading.get_ident() == threads[0]._ident else None

    threads = []
    threads += [compat.ModelThread(work)]
    threads += [compat.ModelThread(work)]
    for thread in threads:
        thread.join()
    assert len(set(idents)) == 2
