"""The command line: `python run.py VERB --flag=value`. Builds a checked plan with python-fire, then
carries it out.
"""

import contextlib
import errno
import inspect
import os
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # during the imports there is nothing yet to lose, or to print
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import fire  # noqa: E402

from ct.config import nearest  # noqa: E402
from ct.errors import InputError, shown  # noqa: E402
from ct.system.interrupts import INTERRUPTED, LINE, Interrupts  # noqa: E402
from pipeline.options import Plan, unpack  # noqa: E402


class Verbs:
    """From head-CT DICOM slices to six hemorrhage probabilities per slice, in two stages."""

    def demo(self, *, run="runs/demo", studies=None, seed=None):
        """Make example data and run everything on them: synth, new, all. Repeated, it continues.

        Args:
            run: the run folder; the example data go to the folder of this name with "-data" behind
                it
            studies: head-CT studies to make; 60 if not given
            seed: of the data and of the training; 0 if not given
        """
        return Plan("demo", _but_self(locals()))

    def synth(self, *, out, studies=60, seed=0):
        """Write an example competition: DICOM files with planted bleeds. Needs --out.

        Args:
            out: a new folder
            studies: head-CT studies, about one in six of them for the test set
            seed: the same seed writes the same bytes
        """
        return Plan("synth", {"out": out, "studies": studies, "seed": seed})

    def new(
        self,
        *,
        run,
        recipe,
        data=None,
        slices=None,
        labels=None,
        sample=None,
        train_slices=None,
        seed=None,
        allow_unlabelled=None,
        missing=None,
    ):
        """Make a run folder. Needs --recipe and --data or --slices, and, as all that follow, --run.

        Args:
            run: the folder to make
            recipe: a name from recipes/, or a YAML file
            data: a folder laid out as Kaggle's: stage_2_train/, stage_2_test/ and the two csv
                files; or Kaggle's zip, as it is
            slices: instead of data, for stage two alone: a csv or parquet table of slices, their
                geometry and labels
            labels: the label csv, if it is elsewhere
            sample: the sample submission, if it is elsewhere
            train_slices: take that many train slices at most, as whole patients; all if not given
            seed: instead of the recipe's
            allow_unlabelled: leave train slices without all six labels out of training
            missing: sample rows without a file: "refuse", or "prior" for the training prior
        """
        return Plan("new", _but_self(locals()))

    def ingest(
        self, *, run, allow_unlabelled=None, missing=None, workers=None, quarantine_unreadable=False
    ):
        """Read headers and pixels into the slice table and the pixel cache.

        Args:
            run: the run folder
            allow_unlabelled: leave train slices without all six labels out of training (kept in the
                run's recipe)
            missing: sample rows without a file: "refuse", or "prior" for the training prior (kept
                in the run's recipe)
            workers: processes; the number of cores if not given
            quarantine_unreadable: put files that the system cannot read, while it reads others,
                into quarantine
        """
        return Plan("ingest", _but_self(locals()))

    def folds(self, *, run):
        """Assign patient-grouped, label-balanced folds."""
        return Plan("folds", {"run": run})

    def train(self, *, run):
        """Train each CNN on each fold; what is done is kept."""
        return Plan("train", {"run": run})

    def predict(self, *, run):
        """Show the test slices to the CNNs of each fold."""
        return Plan("predict", {"run": run})

    def import_predictions(self, *, run, name, oof=None, test=None, trust_oof=False, remove=False):
        """Take in the predictions of a model that was trained elsewhere.

        Args:
            run: the run folder
            name: what to call the model; the same name again replaces it
            oof: csv or parquet, its out-of-fold predictions: slice id and six labels, or ID,Label;
                with `fold` if at hand
            test: likewise its predictions on the test slices; with `fold`, one row a slice and fold
            trust_oof: take predictions that look as if the model had been trained on those very
                slices
            remove: take the model out of the run again
        """
        return Plan("import-predictions", _but_self(locals()))

    def features(self, *, run):
        """Build neighbour, study and geometry features, and list them."""
        return Plan("features", {"run": run})

    def tune(self, *, run, trials=None, timeout=None, workers=None):
        """Search LightGBM's settings with optuna; continues where it stopped.

        Args:
            run: the run folder
            trials: of each search (kept in the run's recipe)
            timeout: seconds, shared by the searches, after which no further trial begins
            workers: processes; the number of cores if not given
        """
        return Plan("tune", _but_self(locals()))

    def search(self, *, run, stage="one", model=None, fold=None, trials=None, timeout=None):
        """Search a CNN's settings with optuna; changes nothing, continues where it stopped.

        Args:
            run: the run folder
            stage: "one" for a CNN's settings within the recipe's search.space; "two" does what tune
                does
            model: the CNN's name; not needed where the recipe has one
            fold: whose patients are left out of the search; 0 if not given
            trials: in all, with those of earlier calls; 20 if not given (stage two: of each search,
                kept in the run's recipe)
            timeout: seconds after which no further trial begins
        """
        return Plan("search", _but_self(locals()))

    def stack(self, *, run):
        """Fit the stackers and score both stages out of fold."""
        return Plan("stack", {"run": run})

    def submit(self, *, run, stage="two", missing=None):
        """Write and check the Kaggle submission.

        Args:
            run: the run folder
            stage: "two", or "one" for the calibrated mean of the CNNs
            missing: sample rows without a file: "refuse", or "prior" for the training prior (kept
                in the run's recipe)
        """
        return Plan("submit", _but_self(locals()))

    def report(self, *, run, study=None):
        """Write report.html.

        Args:
            run: the run folder
            study: instead of it, the page of this one study: studies/<study>.html in the run folder
        """
        return Plan("report", _but_self(locals()))

    def explain(self, *, run, studies=None, model=None):
        """Show where the CNNs look, by Grad-CAM, for the report's study browser.

        Args:
            run: the run folder
            studies: study ids with commas between them; those that the report shows if not given
            model: the CNN's name; every one if not given
        """
        return Plan("explain", _but_self(locals()))

    def all(
        self,
        *,
        run,
        allow_unlabelled=None,
        trials=None,
        missing=None,
        workers=None,
        quarantine_unreadable=False,
    ):
        """Bring whatever is stale up to date, in order.

        Args:
            run: the run folder
            allow_unlabelled: leave train slices without all six labels out of training (kept in the
                run's recipe)
            trials: of each search of tune (kept in the run's recipe)
            missing: sample rows without a file: "refuse", or "prior" for the training prior (kept
                in the run's recipe)
            workers: processes; the number of cores if not given
            quarantine_unreadable: put files that the system cannot read, while it reads others,
                into quarantine
        """
        return Plan("all", _but_self(locals()))

    def export_model(self, *, run, to):
        """Pack what `score` needs of a finished run in one folder, with a card.

        Args:
            run: the run folder
            to: a new folder, for weights, boosters, calibrations and the card; no pixels, labels,
                identifiers
        """
        return Plan("export-model", _but_self(locals()))

    def score(
        self,
        *,
        data,
        to,
        run=None,
        model=None,
        device="auto",
        workers=None,
        anyway=False,
        quarantine_unreadable=False,
    ):
        """Score studies of your own: a folder or zip of DICOM files. Needs --run or --model.

        Args:
            data: a folder or zip archive; every DICOM file in it, of one or many studies
            to: a new folder, for probabilities (csv, parquet), a page, and what was refused and why
            run: a finished run, whose models are asked
            model: instead of a run, a folder that export-model made
            device: "cpu", "cuda", or "auto", the GPU where there is one
            workers: processes that decode; the number of cores if not given
            anyway: score what would be refused, too (no CT, no head, ...)
            quarantine_unreadable: put files that the system cannot read, while it reads others,
                into quarantine
        """
        return Plan("score", _but_self(locals()))

    def status(self, *, run, json=False, verify=False):
        """Show what is fresh, stale or missing, and why.

        Args:
            run: the run folder
            json: print it for scripts, with the scores there are, as one JSON object
            verify: read every file whole, name all that are damaged, and end with status 1 where
                there are any
        """
        return Plan("status", {"run": run, "as_json": json, "verify": verify})

    def completion(self):
        """Print what lets bash complete its words: eval "$(ich-stack completion)"."""
        return Plan("completion", {})


LONGEST = 2000  # characters of an error's line
QUIET = "--quiet"  # with any verb: nothing but errors is printed, and what `status --json` tells
SWITCHES = (
    "--allow-unlabelled",
    "--anyway",
    "--json",
    "--quarantine-unreadable",
    "--remove",
    "--trust-oof",
    "--verify",
    QUIET,
)  # flags that stand without a value
REMEDIES = {  # errors of the system -> what to do about them
    errno.EACCES: "you may not; give another path, or yourself the right to it",
    errno.EPERM: "you may not; give another path, or yourself the right to it",
    errno.EROFS: "give another path",
    errno.EEXIST: "that is a file, where a folder is needed; give another path",
    errno.ENOTDIR: "a part of it is a file, where a folder is needed; give another path",
    errno.EISDIR: "that is a folder, where a file is needed; move it away, or give the path of a file",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "links there lead round in a circle; give another path",
    errno.ENOENT: "it was moved away meanwhile, or cannot be made there; look at the path",
    errno.ENOSPC: "make room; the same command continues, what is finished is kept",
    errno.EDQUOT: "make room; the same command continues, what is finished is kept",
    errno.EFBIG: "raise the limit (`ulimit -f`); the same command continues, what is finished is kept",
    errno.EIO: "look at the disk; the same command continues, what is finished is kept",
    errno.ESTALE: "mount it again; the same command continues, what is finished is kept",
    errno.ENOMEM: "close other programs, or take fewer processes (--workers=1); what is finished is kept",
    errno.EMFILE: "raise the limit (ulimit -n 1024), or take fewer processes (--workers=1); what is finished is kept",
    errno.ENFILE: "close other programs; the same command continues, what is finished is kept",
}
VERBS = {
    name.replace("_", "-"): verb for name, verb in vars(Verbs).items() if inspect.isfunction(verb)
}
for _verb in VERBS.values():
    # pydantic reads the values: fire would make --run=1e3 a number
    fire.decorators.SetParseFn(str)(_verb)


def main(argv=None):
    """Run the command line. Returns the exit status: 0, 1 for wrong input, 2 for a wrong word, 130
    when interrupted.
    """
    with Interrupts() as interrupts:
        try:
            status = _run(argv)
        except KeyboardInterrupt:
            status = INTERRUPTED
        except Exception:
            if not interrupts.seen:
                raise
            status = INTERRUPTED  # a library's error in the place of the interrupt that it met
    return _fail(LINE, status) if status == INTERRUPTED else status


def _run(argv):
    """Run the command line, but for interrupts. Returns the exit status."""
    # cuBLAS reads it once, when any verb first multiplies
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    argv = list(sys.argv[1:] if argv is None else argv)
    if len(argv) > 1 and argv[0] in ("help", "--help", "-h"):
        argv = [argv[1], "--help"]
    # fire takes both spellings
    argv[:1] = [verb if verb.startswith("-") else verb.replace("_", "-") for verb in argv[:1]]
    with contextlib.suppress(AttributeError):
        # in a log file its lines stand in order among those of the bars; a letter that a terminal
        # lacks is written as \\u00fc
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        if not argv or argv[0] in ("help", "--help", "-h"):
            print(overview())
            return 0
        if check_words(argv) == "help":
            print(verb_help(argv[0]))
            return 0
        words = [word for word in argv if word != QUIET]
        verb, options = unpack(
            fire.Fire(Verbs(), command=words, name="run.py", serialize=lambda plan: None)
        )
        if verb == "completion":
            from pipeline.commands.completion import completion

            print(completion({verb: [*flags_of(verb), QUIET, "--help"] for verb in VERBS}))
            return 0
        from pipeline.commands.dispatch import execute

        with (
            silence()
            if QUIET in argv and not getattr(options, "as_json", False)
            else contextlib.nullcontext()
        ):
            execute(verb, options)
    except UsageError as error:
        return _fail(error, 2)
    except InputError as error:
        return _fail(error, 1)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = None
        return 1
    except OSError as error:
        from pipeline.command_line.error_messages import shown_error

        remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        return _fail(f"{shown_error(error, argv)}{remedy}", 1)
    except MemoryError:
        return _fail(f"out of memory; {REMEDIES[errno.ENOMEM]}", 1)
    return 0


class UsageError(InputError):
    """A verb or flag that there is not."""


def check_words(argv):
    """Raise UsageError for a verb or flag that there is not, with the nearest one that there is:
    fire would run first.

    Returns "help" where the words ask for it.
    """
    verb, *words = argv
    if verb.startswith("-"):
        raise UsageError(
            f"unexpected {verb!r}; the verb comes first: python run.py VERB --flag=value"
        )
    if verb not in VERBS:
        raise UsageError(f"no verb {verb!r}{nearest(verb, VERBS)}")
    parameters = inspect.signature(VERBS[verb]).parameters
    flags = [QUIET, *flags_of(verb)]
    given, value_may_follow = {}, False  # given: flag -> whether it has its value
    for word in words:
        if word in ("--help", "-h"):
            return "help"
        if word.startswith("--"):
            flag, equals, _ = word.replace("_", "-", word.partition("=")[0].count("_")).partition(
                "="
            )
            if flag not in flags:
                raise UsageError(f"{verb}: no flag {flag}{nearest(flag, flags)}")
            if flag in given:
                raise UsageError(f"{verb}: {flag} is given twice")
            given[flag] = bool(equals) or flag in SWITCHES
            value_may_follow = not equals and flag != QUIET
            if flag == QUIET and equals:
                raise UsageError(f"{QUIET} takes no value")
        elif value_may_follow and not word.startswith("-"):
            value_may_follow, given[flag] = False, True
        else:
            raise UsageError(
                f"{verb}: unexpected {word!r}; flags are written --name=value and are {', '.join(flags)}"
            )
    if bare := [flag for flag, complete in given.items() if not complete]:
        raise UsageError(f"{verb}: {bare[0]} needs a value, written {bare[0]}=VALUE")
    needed = [
        f"--{name}" for name, p in parameters.items() if name != "self" and p.default is p.empty
    ]
    if lacking := [flag for flag in needed if flag not in given]:
        raise UsageError(f"{verb} needs {', '.join(lacking)}; see `python run.py {verb} --help`")
    return ""


def flags_of(verb):
    """Return the flags of a verb, as they are typed."""
    return [
        f"--{name.replace('_', '-')}"
        for name in inspect.signature(VERBS[verb]).parameters
        if name != "self"
    ]


@contextlib.contextmanager
def silence():
    """Keep lines, bars and warnings from the terminal; what is raised goes on."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def overview():
    """Return what `python run.py` alone prints."""
    lines = [inspect.getdoc(Verbs), "", "  python run.py VERB --flag=value ...", ""]
    for name, verb in VERBS.items():
        lines.append(f"  {name:18} {inspect.getdoc(verb).splitlines()[0]}")
    lines += [
        "",
        "To begin: python run.py demo. A verb's flags: python run.py VERB --help.",
        f"With any verb, {QUIET} prints nothing but errors. Not a medical device.",
    ]
    return "\n".join(lines)


def verb_help(verb):
    """Return what `python run.py VERB --help` prints, from the verb's signature and docstring."""
    about, _, args = inspect.getdoc(VERBS[verb]).partition("\n\nArgs:\n")
    described = _described(args) or {"run": "the run folder"}
    lines = [
        f"python run.py {verb} --flag=value ..." if flags_of(verb) else f"python run.py {verb}",
        "",
        about,
        "",
    ]
    for name, parameter in inspect.signature(VERBS[verb]).parameters.items():
        if name != "self":
            default = {parameter.empty: " (needed)", None: "", False: ""}
            default = default.get(parameter.default, f" (default {parameter.default})")
            lines.append(f"  --{name.replace('_', '-'):17} {described[name]}{default}")
    lines.append(f"  {QUIET:19} print nothing but errors")
    return "\n".join(lines)


def _described(args):
    """Return {argument: its description} of the Args of a docstring; deeper lines continue one."""
    described, name = {}, None
    for line in args.splitlines():
        if line.startswith("        "):
            described[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            described[name] = text
    return described


def _but_self(values):
    return {name: value for name, value in values.items() if name != "self"}


def _fail(error, status):
    # a stranger's text may hold line breaks and terminal codes
    print(f"error: {shown(error, LONGEST)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    result = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, or given up
    if result == INTERRUPTED:
        os._exit(result)  # at once: threads that are still busy have nothing to say any more
    sys.exit(result)
