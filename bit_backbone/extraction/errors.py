"""What ends an extraction, as opposed to what fails one image."""


class ExtractionError(OSError):
    """The destination cannot be written, the source is gone, or the machine is out of something.

    Every finished shard is kept; the same command resumes after them.
    """
