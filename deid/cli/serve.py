"""`deid serve`: pictures over HTTP, and a page for people."""

from deid.batch.settings import RunSettings
from deid.cli.options import with_options
from deid.cli.run import Model, WorldName
from deid.errors import DeidError, missing_extra
from deid.serve.settings import ServeSettings


@with_options(RunSettings, ServeSettings)
def serve(
    asked: RunSettings,
    limits: ServeSettings,
    model: Model = None,
    world: WorldName = None,
) -> None:
    """Serve pictures over HTTP: POST /v1/anonymize, and a page at /.

    What a request does not choose itself is as given here. Without --model and --world the
    registry's champion answers, where there is one, and gives way to the next without a pause.
    """
    try:
        from deid.serve.server import serve
    except ModuleNotFoundError as error:
        raise DeidError(missing_extra(error, "serve")) from None
    from deid.batch.project import find_root
    from deid.serve.choice import Choice

    serve(limits, asked, Choice(model, find_root(), world))
