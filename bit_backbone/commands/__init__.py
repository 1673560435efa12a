"""The sub-commands of ``bit-backbone`` that belong to no other room."""
