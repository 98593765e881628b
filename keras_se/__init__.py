"""Squeeze-and-Excitation for Keras.

Importing it costs what `import keras` costs: packages that extras bring are imported where they are
used. The layers are registered here, so that `.keras` files load without custom objects.
"""

from keras_se import callbacks, compress, testing, theory
from keras_se.costs import CostReport, cost
from keras_se.deployment.deploying import deploy, repair
from keras_se.deployment.deployment import Deployment
from keras_se.layers import GraphSEBlock, SEBlock
from keras_se.litert.convert import to_tflite
from keras_se.reading import find_sites, read_gates
from keras_se.sites.site import Site
from keras_se.surgery.adoption import adopt
from keras_se.surgery.insertion import insert, remove
from keras_se.surgery.placements import Candidate, candidates
from keras_se.verification.compression import compression_report
from keras_se.verification.folding import fold
from keras_se.verification.reports.compression_report import CompressionReport
from keras_se.verification.reports.folding import Folding
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.verdict import verify
from keras_se.verification.worth import worth

__version__ = "0.2.0"

__all__ = [
    "Candidate",
    "CompressionReport",
    "CostReport",
    "Deployment",
    "Folding",
    "GateReport",
    "GraphSEBlock",
    "SEBlock",
    "Site",
    "adopt",
    "callbacks",
    "candidates",
    "compress",
    "compression_report",
    "cost",
    "deploy",
    "find_sites",
    "fold",
    "insert",
    "read_gates",
    "remove",
    "repair",
    "testing",
    "theory",
    "to_tflite",
    "verify",
    "worth",
]
