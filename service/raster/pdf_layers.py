# mypy: disable-error-code="no-untyped-call"
# (PyMuPDF is annotated in part.)
"""Decides which layers of a PDF are shown, by ISO 32000-2, 8.11, and tells MuPDF, which gets many policies of groups wrong.

The states are those for viewing in the default configuration. They are written into the open document in memory: the states of
the groups, and in place of each membership dictionary a group whose own state says what its policy or its expression comes to.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pymupdf import mupdf

_get = mupdf.ll_pdf_dict_gets
_name = mupdf.ll_pdf_to_name
_number = mupdf.ll_pdf_to_num

_MOST_GROUPS = 10_000
_MOST_DEPTH = 32  # of expressions
_MOST_OPERANDS = 10_000  # of one expression; parts of it may be one object many times
_UNCLEAR_KEY = "ZipRerankUnclear"  # in a membership dictionary that was written before
_STATE_KEYS = {"View": "ViewState", "Print": "PrintState", "Export": "ExportState"}


class UnclearLayersError(Exception):
    """A membership that cannot be decided."""


class Layers:
    """The layers of one open document."""

    @classmethod
    def of(cls, document: Any) -> "Layers | None":
        """document: a PdfDocument of MuPDF. None: it has no layers."""
        properties = _get(_get(mupdf.pdf_trailer(document).m_internal, "Root"), "OCProperties")
        return cls(document, properties) if mupdf.ll_pdf_is_dict(properties) else None

    def __init__(self, document: Any, properties: Any) -> None:
        self._document = document
        self._operands_left = 0
        groups = list(_items(_get(properties, "OCGs")))
        configuration = _get(properties, "D")
        self._is_on = _states_of(groups, configuration)
        self._unclear = self._apply_usage(configuration)
        self.is_complete = mupdf.ll_pdf_array_len(_get(properties, "OCGs")) <= _MOST_GROUPS
        intents = set(_names(_get(configuration, "Intent"))) or {"View"}
        for group in groups:
            number = _number(group)
            if not intents & {"All", *(_names(_get(group, "Intent")) or ("View",))}:
                self._is_on[number] = True  # such a group has no effect
            if mupdf.ll_pdf_is_dict(group):
                mupdf.ll_pdf_dict_dels(group, "Usage")  # MuPDF would apply it in every case
                mupdf.ll_pdf_dict_dels(group, "Intent")
                name = mupdf.pdf_new_text_string(str(number))
                mupdf.pdf_dict_puts(mupdf.PdfObj(mupdf.ll_pdf_keep_obj(group)), "Name", name)
        for position in range(min(mupdf.pdf_count_layers(document), _MOST_GROUPS)):  # in an order of MuPDF's own
            name = mupdf.pdf_layer_name(document, position)
            if name.isdecimal():
                mupdf.pdf_enable_layer(document, position, int(self._is_on.get(int(name), True)))

    def resolve(self, membership: Any) -> bool:
        """Write the state of a group or of a membership dictionary into it. False: it cannot be decided for certain."""
        if not mupdf.ll_pdf_is_dict(membership):
            return True
        if _name(_get(membership, "Type")) != "OCMD":
            return _number(membership) not in self._unclear and _get(membership, _UNCLEAR_KEY) is None
        is_certain = self.is_complete and not any(_number(group) in self._unclear for group in _groups_of(membership))
        try:
            is_shown = self._is_shown(membership)
        except UnclearLayersError:
            is_certain, is_shown = False, self._follows_policy(membership)
        for key in ("OCGs", "P", "VE"):
            mupdf.ll_pdf_dict_dels(membership, key)
        group = mupdf.PdfObj(mupdf.ll_pdf_keep_obj(membership))
        mupdf.pdf_dict_puts(group, "Type", mupdf.pdf_new_name("OCG"))
        mupdf.pdf_dict_puts(group, "Usage", self._usage(is_shown=is_shown))
        if not is_certain:
            mupdf.pdf_dict_puts(group, _UNCLEAR_KEY, mupdf.pdf_new_int(1))
        return is_certain

    def _usage(self, *, is_shown: bool) -> Any:
        view, usage = mupdf.pdf_new_dict(self._document, 1), mupdf.pdf_new_dict(self._document, 1)
        mupdf.pdf_dict_puts(view, "ViewState", mupdf.pdf_new_name("ON" if is_shown else "OFF"))
        mupdf.pdf_dict_puts(usage, "View", view)
        return usage

    def _is_shown(self, membership: Any) -> bool:
        """Raises: UnclearLayersError."""
        expression = _get(membership, "VE")
        if mupdf.ll_pdf_is_array(expression):
            self._operands_left = _MOST_OPERANDS
            return self._value_of(expression, 0)
        return self._follows_policy(membership)

    def _follows_policy(self, membership: Any) -> bool:
        states = [self._state(group) for group in _groups_of(membership)]
        if not states:
            return True
        match _name(_get(membership, "P")):
            case "AllOn":
                return all(states)
            case "AnyOff":
                return not all(states)
            case "AllOff":
                return not any(states)
        return any(states)

    def _value_of(self, expression: Any, depth: int) -> bool:
        """Raises: UnclearLayersError."""
        self._operands_left -= 1
        if not mupdf.ll_pdf_is_array(expression):
            if not mupdf.ll_pdf_is_dict(expression):
                raise UnclearLayersError
            return self._state(expression)
        if depth > _MOST_DEPTH or self._operands_left < 0 or mupdf.ll_pdf_array_len(expression) < 2:
            raise UnclearLayersError
        operands = (self._value_of(operand, depth + 1) for operand in islice(_items(expression), 1, None))
        match _name(mupdf.ll_pdf_array_get(expression, 0)):
            case "And":
                return all(operands)
            case "Or":
                return any(operands)
            case "Not" if mupdf.ll_pdf_array_len(expression) == 2:
                return not next(operands)
        raise UnclearLayersError

    def _state(self, group: Any) -> bool:
        return self._is_on.get(_number(group), True)

    def _apply_usage(self, configuration: Any) -> frozenset[int]:
        """Set the states that usage for viewing asks for; the numbers of groups whose usage depends on the viewer."""
        unclear, on, off = set(), set(), set()
        for application in _items(_get(configuration, "AS")):
            if _name(_get(application, "Event")) != "View":
                continue
            categories = _names(_get(application, "Category"))
            for group in _items(_get(application, "OCGs")):
                usage = _get(group, "Usage")
                for category in categories:
                    entry = _get(usage, category)
                    if entry is None:
                        continue
                    if category not in _STATE_KEYS:  # magnification, language, user
                        unclear.add(_number(group))
                    elif _name(_get(entry, _STATE_KEYS[category])) == "OFF":
                        off.add(_number(group))
                    else:
                        on.add(_number(group))
        self._is_on |= dict.fromkeys(on, True) | dict.fromkeys(off, False)
        return frozenset(unclear)


def _states_of(groups: list[Any], configuration: Any) -> dict[int, bool]:
    """Each group's state by its object number: the base state, then the lists of the configuration."""
    is_on = _name(_get(configuration, "BaseState")) != "OFF"
    states = {_number(group): is_on for group in groups}
    for key, state in (("ON", True), ("OFF", False)):
        states |= {_number(group): state for group in _items(_get(configuration, key))}
    return states


def _groups_of(membership: Any) -> list[Any]:
    groups = _get(membership, "OCGs")
    found = list(_items(groups)) if mupdf.ll_pdf_is_array(groups) else [groups]
    return [group for group in found if mupdf.ll_pdf_is_dict(group)]


def _items(array: Any) -> Iterator[Any]:
    for position in range(min(mupdf.ll_pdf_array_len(array), _MOST_GROUPS)):
        yield mupdf.ll_pdf_array_get(array, position)


def _names(value: Any) -> tuple[str, ...]:
    """Of a name, or of an array of names."""
    if mupdf.ll_pdf_is_name(value):
        return (_name(value),)
    return tuple(_name(item) for item in _items(value))
