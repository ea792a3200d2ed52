"""The whole configuration of a run, in frozen dataclasses that are flags, help text and record in one.

A :class:`~inputaware.config.fields.Config` is made by :func:`~inputaware.config.presets.preset_config`, changed with
:func:`~inputaware.config.record.override`, checked with :func:`~inputaware.config.checks.check_config`, and stored with
:func:`~inputaware.config.record.config_to_dict` and :func:`~inputaware.config.record.config_from_dict`. Nothing here
imports torch, so that the command line can answer ``--help`` at once.
"""

__all__: list[str] = []
