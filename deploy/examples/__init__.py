"""Examples of services that use authsvc."""
