"""Each metric as an `evaluate` module: loaded by path, offline, alone and combined."""

import doctest

import pytest

import evaluate
import hfcap.metrics

PREDICTIONS = ["A dog runs.", "Two cats, asleep.", "A red bus"]
REFERENCES = [["A dog is running.", "The dog runs fast."], ["Two cats sleep."], ["a bus", "a red bus", "red buses"]]
NAMES = ("bleu", "rouge_l", "cider", "cider_d")
pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a module used the network")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_module_equals_the_function(name):
    module = evaluate.load(hfcap.metrics.path(name))
    result = module.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == hfcap.metrics.compute_metrics(PREDICTIONS, REFERENCES, (name,))


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_the_module_run(name):
    module = evaluate.load(hfcap.metrics.path(name))
    assert "@inproceedings" in module.citation and len(module.description) > 50
    test = doctest.DocTestParser().get_doctest(module.inputs_description, {}, name, None, None)
    assert len(test.examples) >= 4
    assert doctest.DocTestRunner().run(test).failed == 0


def test_meteor_loads_without_java():
    module = evaluate.load(hfcap.metrics.path("meteor"))
    assert "METEOR" in module.description


def test_modules_combine():
    modules = evaluate.combine([hfcap.metrics.path(name) for name in NAMES])
    result = modules.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == hfcap.metrics.compute_metrics(PREDICTIONS, REFERENCES, NAMES)


def test_batches_add_up():
    module = evaluate.load(hfcap.metrics.path("bleu"))
    module.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    module.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert module.compute() == hfcap.metrics.compute_metrics(PREDICTIONS, REFERENCES, ("bleu",))


def test_options_reach_the_metric(tmp_path):
    module = evaluate.load(hfcap.metrics.path("bleu"))
    result = module.compute(predictions=PREDICTIONS, references=REFERENCES, reference_length="shortest")
    expected = hfcap.metrics.compute_metrics(PREDICTIONS, REFERENCES, ("bleu",), reference_length="shortest")
    assert result == expected
    idf = tmp_path / "idf.npz"
    hfcap.metrics.document_frequencies([["a dog"], ["a bus"], ["a cat"], ["the park"]]).save(idf)
    module = evaluate.load(hfcap.metrics.path("cider"))
    result = module.compute(predictions=PREDICTIONS, references=REFERENCES, idf=str(idf))
    assert result == hfcap.metrics.compute_metrics(PREDICTIONS, REFERENCES, ("cider",), idf=idf)


def test_unknown_module_is_refused():
    with pytest.raises(ValueError, match="no module 'spice'; wanted one of cider"):
        hfcap.metrics.path("spice")
