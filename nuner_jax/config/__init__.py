"""One frozen dataclass a stage: every option of nuner_jax, with its default. Loaded by cli.parse."""

from nuner_jax.config.ablate import AblateConfig, CutConfig, Published, StagesConfig
from nuner_jax.config.annotate import AnnotateConfig, BatchConfig, BudgetConfig, CorpusConfig, LlmConfig, ServerConfig
from nuner_jax.config.concepts import ConceptMapConfig, NearestConfig
from nuner_jax.config.dataset import DatasetConfig
from nuner_jax.config.evaluate import EvaluateConfig, FinetuneConfig, HeadConfig, Labels, Sampling
from nuner_jax.config.export import ExportConfig
from nuner_jax.config.figures import FiguresConfig
from nuner_jax.config.inference import FitConfig, PredictConfig
from nuner_jax.config.recipes import RECIPES, Recipe, recipes
from nuner_jax.config.report import ReportConfig
from nuner_jax.config.serve import ServeConfig
from nuner_jax.config.train import DataConfig, DistributedConfig, LossConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig

__all__ = [
    "RECIPES",
    "AblateConfig",
    "AnnotateConfig",
    "BatchConfig",
    "BudgetConfig",
    "ConceptMapConfig",
    "CorpusConfig",
    "CutConfig",
    "DataConfig",
    "DatasetConfig",
    "DistributedConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FiguresConfig",
    "FinetuneConfig",
    "FitConfig",
    "HeadConfig",
    "Labels",
    "LlmConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "NearestConfig",
    "OptimConfig",
    "PredictConfig",
    "Published",
    "Recipe",
    "ReportConfig",
    "Sampling",
    "ServeConfig",
    "ServerConfig",
    "StagesConfig",
    "TrainConfig",
    "recipes",
]
