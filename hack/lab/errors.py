"""What goes wrong in the lab, each as one line that says what to do."""

from dynamollm.core.errors import DynamoLLMError


class LabError(DynamoLLMError):
    """The local cluster cannot do what was asked."""
