"""Form of the tables that a model takes: its features, and which are dates and categories."""

from collections.abc import Sequence
from dataclasses import dataclass

from clients.data.table_cells import Categories, width
from clients.export.model_card import CATEGORIES, COLUMNS, DATES, card_entry
from clients.state.model_file import PersonalizedModel


@dataclass(frozen=True)
class TableForm:
    """What a model was trained on, if that was a table.

    Attributes
    ----------
    columns : sequence of str, default ()
        Names of the model's features, in its order; empty where they have none.
    categories : tuple, default ()
        Columns of words with their categories: the last features, as columns of 0 and 1.
    dates : sequence of str, default ()
        Columns of dates.
    """

    columns: Sequence[str] = ()
    categories: Categories = ()
    dates: Sequence[str] = ()

    @property
    def numbers(self) -> list[str]:
        """The features that are numbers and dates."""
        return [*self.columns[: len(self.columns) - width(self.categories)]]

    @property
    def in_tables(self) -> list[str]:
        """The columns that a table must have."""
        return [*self.numbers, *(name for name, _ in self.categories)]


def table_form(model: PersonalizedModel) -> TableForm:
    """Return the form of a model's tables, from its card; files of earlier versions say less.

    Parameters
    ----------
    model : PersonalizedModel
        The model.

    Raises
    ------
    ExportError
        If an entry of the card has another type.
    """
    columns, categories, dates = (
        card_entry(model, key) if key in model.about else [] for key in (COLUMNS, CATEGORIES, DATES)
    )
    return TableForm(columns, tuple((name, tuple(words)) for name, words in categories), dates)
