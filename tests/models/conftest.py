import pytest
import torch
import transformers


@pytest.fixture(autouse=True)
def quiet_and_reproducible():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
