"""The import-linter contract `only`: modules that may import what is listed, and nothing else.

import-linter's own `forbidden` lists what is not allowed, so a package that is added later is
allowed until somebody thinks of it. Here it is refused until somebody allows it.
"""

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """Each source may import itself, the allowed modules, and externals that are not forbidden.

    Options:
        source_modules: packages or modules of ours; each must exist, so that renaming one does
            not switch its contract off.
        allowed_modules: those of ours that a source may import, with all below them. Optional.
        forbidden_externals: top-level names of others, the standard library's among them, that
            no source may import. Optional.
    """

    type_name = "only"

    # Any: an instance has a list of names where the class has a field.
    source_modules: Any = fields.ListField(fields.StringField())
    allowed_modules: Any = fields.ListField(fields.StringField(), required=False, default=[])
    forbidden_externals: Any = fields.ListField(fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find every direct import that is not allowed; those it leads to are then allowed too."""
        missing = [source for source in self.source_modules if source not in graph.modules]
        illegal = [
            (importer, line, imported)
            for source in self.source_modules
            if source not in missing
            for importer in sorted({source} | graph.find_descendants(source))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if (
                imported.partition(".")[0] in self.forbidden_externals
                if graph.is_module_squashed(imported)
                else not any(
                    _is_within(imported, package) for package in [source, *self.allowed_modules]
                )
            )
            for line in _lines(graph, importer, imported)
        ]
        return ContractCheck(
            kept=not missing and not illegal, metadata={"missing": missing, "illegal": illegal}
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line for each module that is missing and each import that is not allowed."""
        for module in check.metadata["missing"]:
            output.print_error(f"- {module}: no such module")
        for importer, line, imported in check.metadata["illegal"]:
            output.print_error(f"- {importer}:{line} imports {imported}")


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _lines(graph: ImportGraph, importer: str, imported: str) -> list[int]:
    details = graph.get_import_details(importer=importer, imported=imported)
    return sorted({detail["line_number"] for detail in details})
