"""What the studies found on their seeds, in words: Markdown, for the page of each."""

from collections.abc import Mapping

ANSWERS: Mapping[str, str] = {
    "assistants": (
        "As a whole, if at all. `fedit`, which shares all of the adapters, is above a head on the"
        " frozen encoder where households have words of their own (by 2.5 points with 40 words, "
        "by 2.8 with 120), and above adapters trained alone where texts are few as well (120 "
        "words, 5 to 12 texts: 2.9 points). Personal halves do not pay here: with 120 words "
        "`fedsa-lora` is 1.8 points below `fedit`, and `ffa-lora` 1.6. `feddpa` and clusters of "
        "adapters cannot be told from `fedit`. Where all speak alike no adapter can be told from "
        "the head on the frozen encoder, which sends nothing and takes a small part of the time."
    ),
    "borrowing": (
        "Something at every size: the squared error is below those of training alone and of one "
        "model for all, and 2 to 9 % above that of an oracle, which knows the prior."
    ),
    "borrowing-diabetes": (
        "With fewer than 20 patients, 98 % of the squared error of training alone is saved, and 8"
        " % of that of one model for all. Take a diagonal covariance: with 30 sites a full one is"
        " worse than one model for all where sites have 10 to 19 patients."
    ),
    "clusters": (
        "Mostly. First gradients and CFL find them on 8 of 10 seeds, IFCA on 6 with the best of "
        "its starts, and then a model for each is worth some 33 points over training alone. "
        "Clusters that differ by their light only are found on no seed, nor do they need models "
        "of their own."
    ),
    "clusters-sizes": (
        "Here 256 values are enough: they find the clusters as often as the whole gradient does. "
        "The default of 8192 has what the whole gradient finds on every seed."
    ),
    "cold-start": (
        "Nearly all: from its description alone a new client gets what those that were trained "
        "have. `fedavg` is 8 points below that even after 50 steps on the client's own examples. "
        "With descriptions of others nothing is left of it."
    ),
    "cold-start-hard": (
        "Less, and still most: without a step on its own examples a new client is 42 points above"
        " `fedavg`, after 50 steps 3."
    ),
    "cold-start-regression": (
        "As much as for classes: from its description alone a new client gets an R2 of .94, which"
        " `fedavg` reaches after 50 steps on the client's own examples. For clients that were "
        "trained the error is a quarter of `fedavg`'s."
    ),
    "gallery": (
        "With 100 training examples and more, yes: it gains 5 points over training alone. With 20"
        " and with 50 it harms: 35 and 24 points below training alone."
    ),
    "hospitals": (
        "The one that `shared-curve` finds: 2.9 points of F1 above one threshold for all, 58 % of"
        " what an oracle gains. A threshold fitted to a hospital's own patients alone "
        "(`personal`) gains nothing."
    ),
    "hospitals-real": (
        "With four hospitals no rule is significantly better than one threshold for all."
    ),
    "lighting": (
        "Yes: `fedbn` gains 7 points over training alone. A personal head does not help here, and"
        " beside personal norm it costs 2 points."
    ),
    "pictures": (
        "Trained on with personal heads (`fedper`) it is 1.6 points better than frozen under a "
        "client's own head, for 6 MB a client and round in place of none. Both are above training "
        "alone from scratch, by 4 and 2 points; one model for all is far below."
    ),
    "safeguard": (
        "It protects part of them: fewer clients are harmed, and the mean comes within a point of"
        " `fedavg`, which is the best choice on such data."
    ),
    "sensors": (
        "Those of `errors-in-variables`: 93 % of the bias of `fedavg` is gone. Calibrated inputs "
        "do as well where devices know their errors, and so does leaving the bad devices out, "
        "which predicts worse."
    ),
    "sensors-classes": (
        "`quality-weighted` gains 2 points on good devices and 1 on bad ones. For classes neither"
        " calibrated inputs nor `errors-in-variables` help."
    ),
    "smartwatch": (
        "The Fisher penalty keeps the old: forgetting falls from 53 to 15 points, at little cost "
        "for the new. The proximal term alone does not, and adds a point to it. Training on all "
        "phases at once stays 12 points ahead."
    ),
    "social": (
        "Message passing with everybody, adapters and head with one's own community: 20 points "
        "above one model for all, 3 above a model for each community. Communities have to be "
        "known: found by gradients or by updates, they are worth little or nothing."
    ),
    "social-cora": (
        "All layers can be everybody's: adapters by updates gain nothing over one model for all, "
        "which is 2 points above training alone. Clusters by gradients lose what that gains."
    ),
    "social-labels": (
        "The fewer labels, the more there is to share. With 10 a client, adapters and head of the "
        "community are 15 points above a personal head, with 60 less than 2. Communities found by "
        "updates are worth nothing with 10, most of it with 20, all of it with 60."
    ),
    "social-large": "On two cores, beside other work, less than a minute and 1.2 GB.",
    "social-links": (
        "Here one model for all is the best. Adapters for communities neither gain nor lose, and "
        "training alone loses 6 points."
    ),
    "taste": (
        "Yes: a personal head (`fedper`, `fedrep`) gains 6 points over training alone, and one "
        "model for all is of no use."
    ),
}
"""Name of a study -> its answer; none where it has no page, or nobody has read its table yet."""
