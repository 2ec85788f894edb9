"""SOURCES, the table of the data sets: scikit-learn's, torchvision's, generated ones and graphs."""

from collections.abc import Mapping

from pfl_flower.data.records import Source
from pfl_flower.data.sources import (
    diabetes_sites,
    gallery,
    heart_disease,
    hospitals,
    mixed_effects,
    smartwatch,
    social,
    wearables,
    wisdm,
)
from pfl_flower.data.sources import metadata_clients as metadata
from pfl_flower.data.sources import planetoid_and_twitch as graphs
from pfl_flower.data.sources import sklearn_data as sklearn
from pfl_flower.data.sources.torchvision_data import torchvision_data

SOURCES: Mapping[str, Source] = {
    "digits": Source(sklearn.digits, (1, 8, 8), 10),
    "breast-cancer": Source(sklearn.breast_cancer, (30,), 2, standardize=True),
    "hospitals": Source(
        hospitals.hospitals,
        (hospitals.NUM_FEATURES,),
        2,
        standardize=True,
        generated=True,
        heterogeneity="none",
        natural=True,
    ),
    "diabetes": Source(sklearn.diabetes, (10,), 0, standardize=True, heterogeneity="offset"),
    "gallery": Source(
        gallery.gallery, (gallery.CHANNELS, 8, 8), 10, generated=True, heterogeneity="interest"
    ),
    "smartwatch": Source(
        smartwatch.smartwatch,
        (smartwatch.NUM_FEATURES,),
        smartwatch.NUM_ACTIVITIES,
        standardize=True,
        generated=True,
        heterogeneity="none",
        num_phases=smartwatch.NUM_PHASES,
    ),
    "wisdm": Source(
        wisdm.wisdm,
        (wisdm.NUM_FEATURES,),
        wisdm.NUM_ACTIVITIES,
        standardize=True,
        heterogeneity="none",
        num_phases=wisdm.NUM_PHASES,
    ),
    "metadata-digits": metadata.source(metadata.digits, metadata.EASY, (1, 8, 8), 10),
    "metadata-digits-hard": metadata.source(metadata.digits, metadata.HARD, (1, 8, 8), 10),
    "metadata-regression": metadata.source(
        metadata.regression, metadata.EASY, (metadata.NUM_FEATURES,), 0
    ),
    "mnist": Source(torchvision_data("MNIST"), (1, 28, 28), 10),
    "fashion-mnist": Source(torchvision_data("FashionMNIST"), (1, 28, 28), 10),
    "cifar10": Source(torchvision_data("CIFAR10"), (3, 32, 32), 10),
    "cifar100": Source(torchvision_data("CIFAR100"), (3, 32, 32), 100),
    "mixed-effects": Source(
        mixed_effects.mixed_effects,
        (mixed_effects.NUM_FEATURES,),
        0,
        generated=True,
        heterogeneity="none",
    ),
    "diabetes-sites": Source(
        diabetes_sites.diabetes_sites,
        (diabetes_sites.NUM_FEATURES,),
        0,
        standardize=True,
        generated=True,
        heterogeneity="none",
    ),
    "wearables": Source(
        wearables.wearables,
        (wearables.NUM_FEATURES,),
        0,
        generated=True,
        heterogeneity="none",
        natural=True,
    ),
    "heart-disease": Source(
        heart_disease.heart_disease,
        (heart_disease.NUM_FEATURES,),
        2,
        standardize=True,
        heterogeneity="none",
        natural=True,
        imputation="mean",
    ),
    "social": Source(
        social.social,
        (social.SocialWorld.features,),
        social.SocialWorld.classes,
        generated=True,
        heterogeneity="none",
        graph=True,
        natural=True,
    ),
    "cora": Source(graphs.planetoid("Cora"), (1433,), 7, heterogeneity="none", graph=True),
    "citeseer": Source(graphs.planetoid("CiteSeer"), (3703,), 6, heterogeneity="none", graph=True),
    "twitch": Source(
        graphs.twitch,
        (graphs.TWITCH_FEATURES,),
        2,
        heterogeneity="none",
        graph=True,
        natural=True,
    ),
}
"""Name of a data set -> its source. A new one is one row."""
