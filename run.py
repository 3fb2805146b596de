"""The command line: `python run.py VERB --flag=value`.

python-fire turns the words of a command line into a plan of checked options; then the plan runs.
"""

import contextlib
import inspect
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # an interrupt during the imports: there is no work to lose and no traceback worth printing
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import fire  # noqa: E402

from ct.errors import InputError, printable  # noqa: E402
from ct.system.interrupts import INTERRUPTED, LINE, InterruptWatch  # noqa: E402
from pipeline.checked_options import Plan, unpack  # noqa: E402
from pipeline.command_line.flag_check import QUIET, UsageError, check_words, flags_of  # noqa: E402
from pipeline.command_line.help_text import overview, verb_help  # noqa: E402

Value = str | int | bool | None  # of a flag: text as typed, or the default
MAX_ERROR_LENGTH = 2000  # characters of an error's line


# Args of a verb describe its own flags; pipeline/command_line/help_text.py describes common ones
class Verbs:
    """From head-CT DICOM slices to six hemorrhage probabilities per slice, in two stages."""

    def demo(self, *, run: Value = "runs/demo", studies: Value = None, seed: Value = None) -> Plan:
        """Make example data and run every stage on them: synth, new, all. Run again to continue.

        Args:
            run: the run folder; the example data go to the folder of this name plus "-data"
            studies: number of head-CT studies to make; 60 if not given
            seed: random seed of the data and of training; 0 if not given
        """
        return _plan("demo", locals())

    def synth(self, *, out: Value, studies: Value = 60, seed: Value = 0) -> Plan:
        """Write an example competition: DICOM files with simulated bleeds. Needs --out.

        Args:
            out: a new folder
            studies: number of head-CT studies; about one in six is a test study
            seed: random seed; the same seed writes the same bytes
        """
        return _plan("synth", locals())

    def new(
        self,
        *,
        run: Value,
        recipe: Value,
        data: Value = None,
        slices: Value = None,
        labels: Value = None,
        sample: Value = None,
        format: Value = None,
        train_slices: Value = None,
        seed: Value = None,
        series: Value = None,
        allow_unlabelled: Value = None,
        missing: Value = None,
    ) -> Plan:
        """Make a run folder. Needs --run, --recipe, and one of --data and --slices.

        Args:
            run: the folder to make
            recipe: a name from recipes/, or a YAML file
            data: a folder in Kaggle's layout (stage_2_train/, stage_2_test/ and the two csv files),
                or Kaggle's zip archive, not unpacked; or a folder or zip of your own studies, with
                --labels
            slices: for stage two alone, instead of --data: a csv or parquet table of slices with
                their geometry and labels
            labels: the label csv, if it is not in --data; of your own studies a table of labels by
                slice
            format: the layout of public data: "bhx", "ct-ich"; "own" for your own studies
            sample: the sample submission, if it is not in --data
            train_slices: use at most this number of train slices, as whole patients; all if not
                given
            seed: random seed, instead of the recipe's
            series: "all" reads all series of a study, else the best one is chosen; the
                competition's studies have one each
        """
        return _plan("new", locals())

    def ingest(
        self,
        *,
        run: Value,
        allow_unlabelled: Value = None,
        missing: Value = None,
        workers: Value = None,
        quarantine_unreadable: Value = False,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Read DICOM headers and pixels into the slice table and the pixel cache."""
        return _plan("ingest", locals())

    def folds(self, *, run: Value) -> Plan:
        """Assign patient-grouped, label-balanced folds."""
        return _plan("folds", locals())

    def train(
        self,
        *,
        run: Value,
        gpus: Value = None,
        workers: Value = None,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Train each CNN on each fold, one on each GPU; finished folds are kept."""
        return _plan("train", locals())

    def predict(
        self,
        *,
        run: Value,
        gpus: Value = None,
        workers: Value = None,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Predict the test slices with the CNNs of each fold."""
        return _plan("predict", locals())

    def import_predictions(
        self,
        *,
        run: Value,
        name: Value,
        oof: Value = None,
        test: Value = None,
        trust_oof: Value = False,
        remove: Value = False,
    ) -> Plan:
        """Import the predictions of a model that was trained elsewhere.

        Args:
            name: the model's name in this run; the same name again replaces the earlier import
            oof: csv or parquet of its out-of-fold predictions: slice id and six labels, or
                ID,Label; with a column `fold` if there is one
            test: its predictions of the test slices, in the same form; with a column `fold`, one
                row per slice and fold
            trust_oof: import predictions that look as if the model was trained on these slices
            remove: remove the model from the run
        """
        return _plan("import-predictions", locals())

    def features(
        self,
        *,
        run: Value,
        workers: Value = None,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Build neighbour, study and geometry features, and list them."""
        return _plan("features", locals())

    def tune(
        self,
        *,
        run: Value,
        trials: Value = None,
        timeout: Value = None,
        workers: Value = None,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Search LightGBM's settings with optuna. Run again to continue.

        Args:
            trials: number of trials per search (saved in the run's recipe)
            timeout: seconds for all searches together; after that no trial starts
        """
        return _plan("tune", locals())

    def search(
        self,
        *,
        run: Value,
        stage: Value = "one",
        model: Value = None,
        fold: Value = None,
        trials: Value = None,
        timeout: Value = None,
    ) -> Plan:
        """Search a CNN's settings with optuna; the recipe stays as it is. Run again to continue.

        Args:
            stage: "one" for a CNN's settings within the recipe's search.space; "two" is the same as
                the verb tune
            model: the CNN's name; not needed if the recipe has only one
            fold: the fold whose patients are left out of the search; 0 if not given
            trials: number of trials, those of earlier calls included; 20 if not given (stage two:
                per search, saved in the run's recipe)
            timeout: seconds after which no trial starts
        """
        return _plan("search", locals())

    def stack(
        self,
        *,
        run: Value,
        workers: Value = None,
        shard: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Fit the stackers and score both stages out of fold."""
        return _plan("stack", locals())

    def submit(self, *, run: Value, stage: Value = "two", missing: Value = None) -> Plan:
        """Write and check the Kaggle submission.

        Args:
            stage: "two", or "one" for the calibrated mean of the CNNs
        """
        return _plan("submit", locals())

    def report(self, *, run: Value, study: Value = None) -> Plan:
        """Write report.html.

        Args:
            study: write the page of this study instead: studies/<study>.html in the run folder
        """
        return _plan("report", locals())

    def explain(self, *, run: Value, studies: Value = None, model: Value = None) -> Plan:
        """Compute Grad-CAM maps of the CNNs for the report's study browser.

        Args:
            studies: study ids, separated by commas; the report's studies if not given
            model: the CNN's name; every CNN if not given
        """
        return _plan("explain", locals())

    def all(
        self,
        *,
        run: Value,
        allow_unlabelled: Value = None,
        trials: Value = None,
        missing: Value = None,
        workers: Value = None,
        quarantine_unreadable: Value = False,
        gpus: Value = None,
        engine: Value = "local",
        address: Value = None,
    ) -> Plan:
        """Run every stage that is stale or missing, in order.

        Args:
            trials: number of trials per search of tune (saved in the run's recipe)
        """
        return _plan("all", locals())

    def export_model(self, *, run: Value, to: Value) -> Plan:
        """Pack what `score` needs of a finished run into one folder, with a model card.

        Args:
            to: a new folder for weights, boosters, calibration and the card; it holds no pixels,
                labels or identifiers
        """
        return _plan("export-model", locals())

    def score(
        self,
        *,
        data: Value,
        to: Value,
        run: Value = None,
        model: Value = None,
        device: Value = "auto",
        workers: Value = None,
        anyway: Value = False,
        fast: Value = False,
        series: Value = None,
        quarantine_unreadable: Value = False,
        dicom_sr: Value = False,
    ) -> Plan:
        """Predict your own studies: a folder or zip of DICOM files. Needs --run or --model.

        Args:
            data: a folder or zip archive with the DICOM files of one or more studies
            to: a new folder for probabilities (csv, parquet), a page, and the list of refused files
            run: a finished run whose models predict
            model: a folder that export-model wrote, instead of --run
            device: "cpu", "cuda", or "auto" for the GPU if there is one
            workers: number of processes that decode; the number of cores if not given
            anyway: also predict what is refused otherwise (not CT, not a head, ...)
            fast: predict new patients with the distilled CNN of the recipe alone
            series: "all" predicts each series as a study of its own, a SeriesInstanceUID that one;
                else one series of each study is chosen
            dicom_sr: also write a DICOM structured report of each study, with the patient's name
        """
        return _plan("score", locals())

    def evaluate(
        self,
        *,
        to: Value,
        labels: Value = None,
        data: Value = None,
        format: Value = None,
        run: Value = None,
        model: Value = None,
        predictions: Value = None,
        device: Value = "auto",
        workers: Value = None,
        anyway: Value = False,
        fast: Value = False,
        known_patients: Value = False,
        series: Value = None,
        quarantine_unreadable: Value = False,
    ) -> Plan:
        """Measure a model on labelled studies that it never saw: AUC, calibration, sensitivity.

        Args:
            to: a new folder for the figures (json, csv) and a page
            labels: csv or parquet of labels, per slice, series or study
            data: a folder or zip archive with the DICOM or NIfTI files of the labelled studies
            format: the layout of public data: "cq500", "bhx", "ct-ich"; else by the columns
            run: a finished run whose models predict
            model: a folder that export-model wrote, instead of --run
            predictions: csv or parquet of predictions, instead of a model and --data
            device: "cpu", "cuda", or "auto" for the GPU if there is one
            workers: number of processes that decode; the number of cores if not given
            anyway: also evaluate what is refused otherwise (not CT, not a head, ...)
            fast: predict new patients with the distilled CNN of the recipe alone
            series: "all" evaluates each series as a study of its own, a UID one series; if not
                given, one series of each study is chosen
            known_patients: also evaluate patients of the run's training data, by the models of the
                fold that never saw them
        """
        return _plan("evaluate", locals())

    def status(
        self, *, run: Value, json: Value = False, verify: Value = False, units: Value = False
    ) -> Plan:
        """Show which stages are fresh, stale or missing, and why.

        Args:
            json: print one JSON object for scripts, with the scores
            verify: read every file, list the damaged ones, and exit with status 1 if there are any
            units: list the units of work of each stage: done, running or missing, what each takes
        """
        options = {"run": run, "as_json": json, "verify": verify, "units": units}
        return _plan("status", options)

    def completion(self) -> Plan:
        """Print a script that completes verbs and flags in bash: eval "$(ich-stack completion)"."""
        return _plan("completion", {})


VERBS = {
    name.replace("_", "-"): verb for name, verb in vars(Verbs).items() if inspect.isfunction(verb)
}
for _verb in VERBS.values():
    # values stay text, which pydantic parses: fire alone turns --run=1e3 into a number
    fire.decorators.SetParseFn(str)(_verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: done; 1: wrong input; 2: unknown verb or flag; 130: interrupted.
    """
    with InterruptWatch() as interrupts:
        try:
            status = _run(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            status = INTERRUPTED
        except Exception:
            if not interrupts.interrupted:
                raise
            status = INTERRUPTED  # a library turned the interrupt into an error of its own
    return _fail(LINE, status) if status == INTERRUPTED else status


def _run(argv: list[str]) -> int:
    """Return the exit status of the command line; print an error of input or system as one line."""
    # for deterministic matrix products; cuBLAS reads it once, before the first one of the process
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # line by line: in a log file printed lines and progress keep their order;
        # a letter that the terminal lacks is written as \\u00fc
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        _execute(argv)
    except UsageError as error:
        return _fail(error, 2)
    except InputError as error:
        return _fail(error, 1)
    except BrokenPipeError:  # `| head` has closed the pipe
        sys.stdout = None  # else Python flushes it at exit, and fails
        return 1
    except (OSError, MemoryError) as error:
        from pipeline.command_line.error_messages import system_error

        return _fail(system_error(error, argv), 1)
    return 0


def _execute(argv: list[str]) -> None:
    """Print help, or carry out the verb. argv: the words after `run.py`"""
    if len(argv) > 1 and argv[0] in ("help", "--help", "-h"):
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("help", "--help", "-h"):
        print(overview(Verbs, VERBS))
        return
    verb, *words = argv
    if not verb.startswith("-"):
        verb = verb.replace("_", "-")  # fire accepts both spellings
    if check_words([verb, *words], VERBS):
        print(verb_help(verb, VERBS[verb]))
        return
    words = [word for word in words if word != QUIET]
    plan = fire.Fire(Verbs(), command=[verb, *words], name="run.py", serialize=lambda plan: None)
    verb, options = unpack(plan)
    if verb == "completion":
        from pipeline.command_line.completion import completion

        flags = {name: [*flags_of(verb), QUIET, "--help"] for name, verb in VERBS.items()}
        print(completion(flags))
        return
    from pipeline.commands.dispatch import execute

    quiet = QUIET in argv and not getattr(options, "as_json", False)
    with _silence() if quiet else contextlib.nullcontext():
        execute(verb, options)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide printed lines, progress bars and warnings; exceptions pass."""
    with (
        open(os.devnull, "w", encoding="utf-8") as devnull,
        contextlib.redirect_stdout(devnull),
        contextlib.redirect_stderr(devnull),
    ):
        yield


def _plan(verb: str, flags: Mapping[str, object]) -> Plan:
    """Check the flags of a verb. flags: {name: value}, or a method's locals with `self`."""
    return Plan(verb, {name: value for name, value in flags.items() if name != "self"})


def _fail(error: object, status: int) -> int:
    """Print one line on stderr and return `status`."""
    # text from a file may hold line breaks and terminal codes
    print(f"error: {printable(error, MAX_ERROR_LENGTH)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work has ended
    if status == INTERRUPTED:
        os._exit(status)  # at once: busy threads would delay the exit
    sys.exit(status)
