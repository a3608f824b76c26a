"""Owns incidents: what is detected in the audit events, and the steps that an operator takes.

Entry classes: `Detections`, `IncidentSteps` and `EvidenceExport`.
"""
