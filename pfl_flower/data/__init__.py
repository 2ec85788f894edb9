"""The data of clients: data sets, partitions, heterogeneity, degraded measurements, own data."""

from pfl_flower.data.client_data import ClientData
from pfl_flower.data.errors import DataError
from pfl_flower.data.federation import Federation, federation
from pfl_flower.data.heterogeneity import HETEROGENEITIES
from pfl_flower.data.partition.partitioners import PARTITIONS
from pfl_flower.data.readers.own_clients import is_own, number_of_clients, stamp
from pfl_flower.data.records import Examples, Source
from pfl_flower.data.schema import ClientSchema, DataSchema
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.registry import SOURCES

__all__ = [
    "HETEROGENEITIES",
    "PARTITIONS",
    "SOURCES",
    "ClientData",
    "ClientSchema",
    "DataError",
    "DataSchema",
    "DataSettings",
    "Examples",
    "Federation",
    "Source",
    "federation",
    "is_own",
    "number_of_clients",
    "stamp",
]
