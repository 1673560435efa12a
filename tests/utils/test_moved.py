"""Import paths that the docs or the changelog have named, old ones and new."""

import importlib
import subprocess
import sys

import pytest

import bit_backbone

# What code of users' imports by paths that a page has shown.
SHOWN = """
bit_backbone: BitBackbone BitConfig BitForImageClassification BitImageProcessor BitModel keep_pages
bit_backbone: optimize_for_inference
bit_backbone.backbone: BitBackbone FeatureInfo
bit_backbone.checkpoints: CheckpointError LoadReport NotDownloadedError catalog convert load
bit_backbone.checkpoints.converting: ConvertReport convert
bit_backbone.checkpoints.errors: CheckpointError NotDownloadedError
bit_backbone.checkpoints.loading: load
bit_backbone.checkpoints.pretrained: config_for
bit_backbone.checkpoints.published: PublishedCheckpoint
bit_backbone.checkpoints.report: LoadReport
bit_backbone.classification: classify Prediction
bit_backbone.config: BitConfig DENSE_FEATURE_NORM MODEL_TYPE StageSpec TRANSFORMERS_EPS VARIANTS
bit_backbone.datasets: CocoFolder DigitScenes SemanticFolder build_scenes AnnotationError Problem
bit_backbone.datasets.build: build_scenes
bit_backbone.datasets.coco: CocoFolder
bit_backbone.datasets.problems: AnnotationError Problem
bit_backbone.datasets.scenes: DigitScenes Scene
bit_backbone.datasets.semantic: SemanticFolder
bit_backbone.detection: DetectionSettings DetectorSpec comparison draw_objects evaluate
bit_backbone.detection: load_detector train
bit_backbone.detection.drawing: comparison draw_objects
bit_backbone.detection.evaluation: evaluate
bit_backbone.detection.models: DetectorSpec
bit_backbone.detection.runs: load_detector
bit_backbone.detection.settings: DetectionSettings
bit_backbone.detection.training: train
bit_backbone.extraction: LocalEngine OutputSettings extract
bit_backbone.finetune: FineTuneSettings finetune select_few_shot
bit_backbone.finetune.evaluation: Metrics evaluate
bit_backbone.finetune.fewshot: select_few_shot
bit_backbone.finetune.folders: LabelledImages
bit_backbone.finetune.hyperrule: resolution Schedule
bit_backbone.finetune.settings: FineTuneSettings
bit_backbone.finetune.splitting: backward_in_parts
bit_backbone.finetune.training: finetune
bit_backbone.finetune.transforms: train_transform
bit_backbone.heads: BitForImageClassification BitModel classification_loss
bit_backbone.inference: optimize_for_inference optimize_in_place
bit_backbone.inference.optimize: optimize_for_inference optimize_in_place
bit_backbone.kernels: group_norm_act kernel_policy
bit_backbone.memory: TrainingOptions detector_step training_memory
bit_backbone.network: BitNetwork Stage
bit_backbone.outputs: ImageClassifierOutput PooledOutput
bit_backbone.pages: keep_pages
bit_backbone.preprocessing.batch: BatchFeature
bit_backbone.preprocessing.processor: BitImageProcessor
bit_backbone.profiling: Profile StageTimer profile
bit_backbone.torchvision: bit_fpn_backbone fasterrcnn_bit_fpn BiT_R50x1_Weights deeplabv3_bit
bit_backbone.torchvision.tiny: TINY
bit_backbone.visualization: principal_components to_picture
"""
PATHS = [line.split(": ") for line in SHOWN.strip().splitlines()]


@pytest.mark.parametrize(("module", "names"), PATHS)
@pytest.mark.filterwarnings("ignore:bit_backbone:DeprecationWarning")
def test_what_the_docs_have_imported_is_there(module, names):
    found = importlib.import_module(module)
    for name in names.split():
        assert hasattr(found, name), f"{module}.{name}"


def test_an_old_name_is_the_module_that_has_the_new_one():
    code = """
import importlib, warnings
from bit_backbone.utils.moved import MOVED
for old, new in MOVED.items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = importlib.import_module(f"bit_backbone.{old}")
    assert f"bit_backbone.{old} is bit_backbone.{new} now" in [str(w.message) for w in seen]
    assert module is importlib.import_module(f"bit_backbone.{new}")
    assert module.__name__ == module.__spec__.name == f"bit_backbone.{new}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_module_stays_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"bit_backbone\.page"):
        importlib.import_module("bit_backbone.page")
    assert not hasattr(bit_backbone, "page")
