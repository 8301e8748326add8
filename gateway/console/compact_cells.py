"""A template filter for lists: cells without the utility classes that Unfold repeats in each of them.

They were two thirds of a list's HTML. tollgate.css has the same rules under one class per kind of cell.
"""

from django.template import Library
from django.utils.html import escape
from django.utils.safestring import SafeString
from unfold import widgets
from unfold.templatetags import unfold_list

register = Library()

#: Unfold's classes → the console's.
CLASSES = {
    " ".join(unfold_list.ROW_CLASSES): "tg-cell",
    " ".join(unfold_list.CHECKBOX_CLASSES): "action-checkbox tg-cell",
    " ".join(unfold_list.LINK_CLASSES): "tg-strong",
    escape(" ".join(widgets.CHECKBOX_CLASSES)): "tg-check",
}


@register.filter
def compact(cell: SafeString) -> SafeString:
    """The cell with the console's classes. `cell` is HTML already; only known class lists change."""
    text = str(cell)
    for classes, short in CLASSES.items():
        text = text.replace(classes, short)
    return SafeString(text)
