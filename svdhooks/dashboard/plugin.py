"""The plugin: what TensorBoard asks it, and its routes.

All are GET below ``data/plugin/svdhooks/``. Names of runs and layers are values of the
query, percent-encoded as UTF-8. ``docs`` of the answers: JSON unless it says *bundle*
(`svdhooks.dashboard.answers`). Every error is JSON ``{"error", "remedy"}`` with a status.

==================================  =====================================================
``runs``                            ``{"runs": [{"name", "title", "written", "local",
                                    "pending", "layers", "records", "first", "last",
                                    "alarms", "token"} or with "error"], "pending",
                                    "logdir", "help"}``; ``help`` is
                                    ``{"text", "code", "more"}`` if there is no run
``overview?run=&known=``            *bundle* ``{"v", "token", "partial", "run"}``; ``run``
                                    as in the report but for what the next three give, and
                                    with ``has``, ``pending``, ``rules_read``; if
                                    ``partial``, only what changed. ``{"unchanged": true,
                                    "token"}`` if ``known`` is the token
``layer?run=&layer=&records=&known=`` *bundle* ``{"layer", "row", "spectra", "local_rank",
                                    "ledger", "measures", "token"}``, curves and spectra of
                                    at most ``records`` steps (default 200, to 2,000)
``pairs?run=``                      *bundle* ``{"pairs", "vector_steps", "internal",
                                    "descrambled": [layer], "notes"}``
``pair?run=&source=&target=&step=`` *bundle* ``{"pair": entry}``; without ``step`` the last
``descrambled?run=&layer=&step=``   *bundle* ``{"descrambled": entry}``
``compare?run=&run=&metric=``       ``svdhooks.compare`` as in the report; ``run`` and
                                    ``metric`` may be repeated
``about``                           versions, directories, whether torch is there
``static/*``                        the page's files
==================================  =====================================================
"""

import threading
from typing import Any

from tensorboard.backend import experiment_id, http_util
from tensorboard.plugins import base_plugin
from werkzeug.wrappers import Request, Response

from svdhooks import __version__
from svdhooks.dashboard import answers, files
from svdhooks.dashboard.answers import RequestError, answering, argument, number
from svdhooks.dashboard.catalog import Catalog
from svdhooks.dashboard.comparing import Comparisons
from svdhooks.dashboard.helping import HELP
from svdhooks.dashboard.live import REST, LiveRun
from svdhooks.dashboard.loader import PLUGIN
from svdhooks.dashboard.provided import Provided
from svdhooks.dashboard.torch_side import TorchSide, torch_is_there
from svdhooks.runlog.known import check_known

RECORDS, MOST_RECORDS = 200, 2000
_WAIT = 0.2


class SpectraPlugin(base_plugin.TBPlugin):
    """The tab.

    Args:
        context: What TensorBoard tells it.
        rest: Seconds between two looks at files.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext, rest: float = REST) -> None:
        flags = context.flags
        spec = getattr(flags, "logdir_spec", None) or None
        self._logdir = context.logdir or spec or ""
        provider = context.data_provider
        self._catalog = Catalog(
            None if spec else context.logdir,
            spec,
            None if provider is None else Provided(provider),
            rest,
        )
        self._comparisons = Comparisons()
        self._torch_side = TorchSide()

    def get_plugin_apps(self) -> dict[str, Any]:
        """The routes."""
        return {
            "/static/*": answering(self._static),
            "/runs": answering(self._runs),
            "/overview": answering(self._overview),
            "/layer": answering(self._layer),
            "/pairs": answering(self._pairs),
            "/pair": answering(self._pair),
            "/descrambled": answering(self._descrambled),
            "/compare": answering(self._compare),
            "/about": answering(self._about),
        }

    def is_active(self) -> bool:
        """Whether there are runs that TensorBoard has not loaded: those it knows of itself.

        Directories are gone through beside the request, which does not wait for large
        ones.

        Returns:
            Whether one was found.
        """
        found: list[bool] = []

        def look() -> None:
            found.append(bool(self._catalog.places("")))

        worker = threading.Thread(target=look, name="svdhooks-runs", daemon=True)
        worker.start()
        worker.join(_WAIT)
        return any(found)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The tab's name, and where its page begins."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name=PLUGIN
        )

    def _static(self, request: Request) -> Response:
        content, kind = files.static_file(
            request.path.partition(f"/{PLUGIN}/static/")[2]
        )
        return http_util.Respond(request, content, kind)

    def _runs(self, request: Request) -> Response:
        rows = self._catalog.summaries(_experiment(request))
        tree = {
            "runs": rows,
            "pending": any(row["pending"] for row in rows),
            "logdir": self._logdir,
            "help": None if rows else HELP,
        }
        return answers.plain(request, tree)

    def _overview(self, request: Request) -> Response:
        run = self._run(request)
        token, content = run.overview(request.args.get("known"))
        return _told(request, token, content)

    def _layer(self, request: Request) -> Response:
        run, layer = self._run(request), argument(request, "layer")
        most = number(request, "records", 2, MOST_RECORDS) or RECORDS
        try:
            token, content = run.layer(layer, most, request.args.get("known"))
        except KeyError as error:
            raise _unknown(error) from None
        return _told(request, token, content)

    def _pairs(self, request: Request) -> Response:
        page = self._run(request).pairs()
        return answers.bundle(request, answers.zipped(answers.bundled(page)))

    def _pair(self, request: Request) -> Response:
        run = self._run(request)
        source, target = argument(request, "source"), argument(request, "target")
        with run.lock:
            known = [(row["source"], row["target"]) for row in run.log.pairs]
        if (source, target) not in known:
            for name in (source, target):
                _check_layer(run, name)
            what = f"The run has no pair {source[:100]!r}, {target[:100]!r}."
            raise RequestError(404, what, "pairs?run=… lists them.")
        return self._by_torch(request, run, source=source, target=target)

    def _descrambled(self, request: Request) -> Response:
        run, layer = self._run(request), argument(request, "layer")
        _check_layer(run, layer)
        return self._by_torch(request, run, layer=layer)

    def _compare(self, request: Request) -> Response:
        names = list(dict.fromkeys(request.args.getlist("run")))
        if len(names) < 2:
            what = f"Found {len(names)} runs to compare."
            raise RequestError(400, what, "Give two or more: run=…&run=….")
        experiment = _experiment(request)
        runs = {name: self._catalog.run(name, experiment) for name in names}
        tree = self._comparisons.compare(runs, request.args.getlist("metric"))
        return answers.plain(request, tree)

    def _about(self, request: Request) -> Response:
        tree = {
            "svdhooks": __version__,
            "logdir": self._logdir,
            "torch": torch_is_there(),
            "routes": sorted(route[1:] for route in self.get_plugin_apps()),
        }
        return answers.plain(request, tree)

    def _by_torch(self, request: Request, run: LiveRun, **asked: str) -> Response:
        step = number(request, "step", 0, 2**62)
        with run.lock:
            directory = run.log.directory
        if not directory.is_dir():
            what = "Vectors are files beside the log, and its directory is not here."
            raise RequestError(404, what, "Start TensorBoard where the run is written.")
        content = self._torch_side.ask(directory, {**asked, "step": step})
        return answers.bundle(request, answers.zipped(content))

    def _run(self, request: Request) -> LiveRun:
        return self._catalog.run(argument(request, "run"), _experiment(request))


def _told(request: Request, token: str, content: bytes | None) -> Response:
    if content is None:
        return answers.plain(request, {"unchanged": True, "token": token})
    return answers.bundle(request, content)


def _experiment(request: Request) -> str:
    return str(request.environ.get(experiment_id.WSGI_ENVIRON_KEY, ""))


def _check_layer(run: LiveRun, layer: str) -> None:
    with run.lock:
        run.look()
        layers = run.log.layers
    try:
        check_known("layer", layer, layers, run.name)
    except KeyError as error:
        raise _unknown(error) from None


def _unknown(error: KeyError) -> RequestError:
    """A name that a run has not; the message ends with what it has."""
    what = str(error.args[0])
    for start in ("Did you mean", "It has"):
        at = what.rfind(start)
        if at > 0:
            return RequestError(404, what[:at].strip(), what[at:])
    return RequestError(404, what, "Choose another one.")
