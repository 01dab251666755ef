"""Self-contained HTML pages from templates that lie in a package; whatever is put in is escaped."""

from importlib.resources import files
from typing import Any

from vega3d.pipeline.texts import on_page


def page_of(package: str, template: str, /, **values: Any) -> str:  # noqa: ANN401 - the template's names
    """Return the page of a template, which may include others of its package.

    Args:
        package: That holds the template, such as `vega3d.evaluate`.
        template: Its file there, such as `templates/report.html`.
        values: By the template's names; a name that it uses and is not given is an error.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    held = files(package)
    environment = Environment(
        loader=FunctionLoader(lambda name: (held / name).read_text(encoding="utf-8")),
        autoescape=True,
        finalize=on_page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
