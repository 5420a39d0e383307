# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the system tests: functions test_* of the modules test_*.py beside this file, on real libvirt and real guests.

A module may have `fixture(lab)`, a function that yields one object; it is made once per module and given to each test
(without it the test gets the Lab itself). After a failed test it is made anew, so that no test suffers from another. If
the object has `reset()`, that is called before every test, and `check()` after each that has passed. A test raises Skip("why") where its subject cannot exist.

With --lanes N so many modules run side by side, each with libvirtds, guests and cgroups of its own; a test that is marked
`alone` (it cannot bear others' swap, say) runs before them.

The last line is "N passed, N failed, N skipped"; the exit status is 0 when none failed and at least one ran.
"""

import argparse
import importlib.util
import inspect
import multiprocessing
import multiprocessing.connection
import pathlib
import signal
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
import host
import lab as lab_module
from lab import Lab, LabError

TEST_LIMIT_S = 120
FIXTURE_LIMIT_S = 240


class Skip(Exception):
    """The test's subject does not exist on this host; the text says why."""


class TimeLimit(BaseException):
    """Not an Exception: a test's own handlers must not swallow it."""


def limit(seconds):
    """Decorator: this test may take so long (times MEMOC_LAB_SLOW)."""
    def mark(function):
        function.limit_s = seconds
        return function

    return mark


def alone(function):
    """Decorator: no other test may run beside this one."""
    function.alone = True
    return function


def on_alarm(*_):
    raise TimeLimit()


def on_terminate(number, _):
    """Once: a lane gets it from its parent as well, and what is cleaned up then is not to be broken off."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


class Deadline:
    """Raises TimeLimit inside the block when it takes longer."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        signal.setitimer(signal.ITIMER_REAL, self.seconds * host.SLOW)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)


class ModuleRun:
    """The tests of one module with their lab and fixture."""

    def __init__(self, module, results):
        self.module, self.results = module, results
        self.lab = self.generator = self.object = None

    def set_up(self):
        if self.lab:
            return
        with Deadline(FIXTURE_LIMIT_S):
            self.lab = Lab()
            make = getattr(self.module, "fixture", None)
            self.generator = make(self.lab) if make else None
            self.object = next(self.generator) if self.generator else self.lab

    def tear_down(self):
        lab, self.lab = self.lab, None
        generator, self.generator = self.generator, None
        if not lab:
            return
        try:
            with Deadline(FIXTURE_LIMIT_S):
                if generator:
                    generator.close()
        finally:
            with Deadline(FIXTURE_LIMIT_S):
                lab.close()

    def run(self, name, function, again=True):
        began = time.monotonic()
        try:
            self.set_up()
            with Deadline(getattr(function, "limit_s", TEST_LIMIT_S)):
                if hasattr(self.object, "reset"):
                    self.object.reset()
                began = time.monotonic()
                function(self.object)
                if hasattr(self.object, "check"):
                    self.object.check()
            self.results.add("passed", name, began)
        except Skip as skip:
            self.results.add("skipped", name, began, str(skip))
        except (Exception, TimeLimit) as error:  # pylint: disable=broad-except  # a failed test is a result
            # Seen with 9.0: a VM that is destroyed in mid-migration takes libvirtd with it now and then (SIGSEGV in its qemu driver).
            if again and self.lab and any(libvirtd.crashed() for libvirtd in self.lab.libvirtds):
                print(f"again   {name}: libvirtd itself crashed ({type(error).__name__}: {error}); once more, with another", flush=True)
                self.finish(f"{name} (clean-up)")
                self.run(name, function, again=False)
                return
            self.failed(name, began, error)

    def failed(self, name, began, error):
        if isinstance(error, TimeLimit):
            why = f"not finished within its time limit\n{traceback.format_exc()}"
        else:
            why = traceback.format_exc() if not isinstance(error, LabError) else f"{short_trace(error)}\n{error}"
        self.results.add("failed", name, began, why)
        if self.lab:
            print(self.lab.diagnose(), flush=True)
        self.finish(name + " (clean-up)")

    def finish(self, name):
        began = time.monotonic()
        try:
            self.tear_down()
        except (Exception, TimeLimit) as error:  # pylint: disable=broad-except  # an unclean end is a failure too
            self.results.add("failed", name, began, f"{type(error).__name__}: {error}")


def short_trace(error):
    """Where in the tests it happened: the harness' own frames tell nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "test_" in pathlib.Path(frame.filename).name]
    return "\n".join(f"  {frame.filename}:{frame.lineno}: {frame.line}" for frame in frames)


class Results:
    """What became of the tests. In a lane they are told to `link` as well, whose other end adds them up."""

    def __init__(self, link=None):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.bad, self.link = [], link

    def add(self, outcome, name, began, why=""):
        print(f"{outcome:8}{name} ({time.monotonic() - began:.1f} s){': ' + why if why else ''}", flush=True)
        line = f"{outcome}: {name}{': ' + why.strip().splitlines()[-1] if why else ''}"
        if self.link:
            self.link.send((outcome, line))
        else:
            self.count(outcome, line)

    def count(self, outcome, line):
        self.counts[outcome] += 1
        if outcome != "passed":
            self.bad.append(line)

    def close(self):
        for line in self.bad:
            print(line)
        print(", ".join(f"{count} {outcome}" for outcome, count in self.counts.items()), flush=True)
        return 1 if self.counts["failed"] or not self.counts["passed"] else 0


def load(path):
    """The module in this file, whatever else goes by its name: tests/lab and tests/system have a test_wss each."""
    known = sys.modules.get(path.stem)
    if known and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def collect(pattern, directory):
    """[(module, [(name, function)])] of what matches; a pattern of several words matches any of them."""
    found = []
    for path in sorted(directory.glob("test_*.py")):
        module = load(path)
        tests = [(f"{path.stem}.{name}", function) for name, function in vars(module).items()
                 if name.startswith("test_") and inspect.isfunction(function) and function.__module__ == path.stem]
        wanted = [test for test in tests if not pattern or any(word in test[0] for word in pattern.split())]
        if wanted:
            found.append((module, wanted))
    return found


def list_tests(modules):
    for _, tests in modules:
        for name, function in tests:
            summary = (inspect.getdoc(function) or "").splitlines()
            print(f"{name}: {summary[0] if summary else ''}")
    return 0


def run_module(module, tests, results):
    module_run = ModuleRun(module, results)
    try:
        for name, function in tests:
            module_run.run(name, function)
    finally:
        module_run.finish(f"{module.__name__} (clean-up)")


def apart(modules):
    """(tests that must be alone, the others), each as collect() has them."""
    split = [[(module, [test for test in tests if getattr(test[1], "alone", False) == alone_ones]) for module, tests in modules]
             for alone_ones in (True, False)]
    return [[entry for entry in entries if entry[1]] for entries in split]


def lane(modules, todo, link):
    """Takes one module after the other until none is left."""
    results = Results(link)
    while (index := todo.get()) is not None:
        run_module(*modules[index], results)


def run_lanes(modules, lanes, results):
    """The longest first, by the time that their tests may take, so that the lanes end together."""
    context = multiprocessing.get_context("fork")
    todo, running = context.SimpleQueue(), {}
    order = sorted(range(len(modules)), reverse=True,
                   key=lambda index: sum(getattr(function, "limit_s", TEST_LIMIT_S) for _, function in modules[index][1]))
    for index in [*order, *[None] * lanes]:
        todo.put(index)
    try:
        for number in range(lanes):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=lane, args=(modules, todo, theirs), name=f"lane {number + 1}")
            process.start()
            theirs.close()
            running[ours] = process
        while running:
            for link in multiprocessing.connection.wait(list(running)):
                try:
                    results.count(*link.recv())
                except EOFError:
                    process = running.pop(link)
                    process.join()
                    if process.exitcode:
                        results.add("failed", process.name, time.monotonic(), f"ended with status {process.exitcode}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def run_all(modules, repeat, lanes):
    results = Results()
    for _ in range(repeat):
        first, others = apart(modules) if lanes > 1 else (modules, [])
        for module, tests in first:
            run_module(module, tests, results)
        if others:
            run_lanes(others, min(lanes, len(others)), results)
    began = time.monotonic()
    for line in lab_module.leftovers(kept_too=False):
        results.add("failed", "leftovers", began, line)
    return results.close()


def main():
    parser = argparse.ArgumentParser(description="memoc's system tests: real libvirt, real guests (run as root)")
    parser.add_argument("-k", metavar="WORDS", default="", help="only tests whose name holds one of these words")
    parser.add_argument("--of", metavar="DIR", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="where the modules are (tests/lab has its own)")
    parser.add_argument("--list", action="store_true", help="show the tests and what each is for")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="run them so many times")
    parser.add_argument("--lanes", metavar="N", type=int, default=1, help="so many modules side by side")
    arguments = parser.parse_args()
    # Test modules import names from `run`: they must get this very module, or their Skip would be another class.
    sys.modules["run"] = sys.modules[__name__]
    sys.path.insert(0, str(arguments.of.resolve()))
    modules = collect(arguments.k, arguments.of.resolve())
    if arguments.list:
        return list_tests(modules)
    if not modules:
        print(f"no test matches {arguments.k!r}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGHUP, on_terminate)
    for problem in lab_module.sweep():
        print(f"sweep: {problem}", file=sys.stderr)
    return run_all(modules, arguments.repeat, arguments.lanes)


if __name__ == "__main__":
    sys.exit(main())
