-- Sessions of dual-stack clients may be bound to an address of each family.

-- An address of the other family than `ip`, from which the user had logged in on the same device.
ALTER TABLE sessions ADD COLUMN other_ip inet;
