-- What passkeys and their registrations have to remember. Safe beside the previous version, whose
-- INSERTs name their columns.

-- Whether the authenticator said at registration that the passkey can be on several devices (WebAuthn
-- Level 3, section 6.1.3); false for older passkeys, for which it is not known. It never changes: what
-- an assertion says about it, a copy of the key could say as well.
ALTER TABLE factors ADD COLUMN backup_eligible boolean NOT NULL DEFAULT false;

-- Whether the registration was begun for a browser that may create the passkey without a gesture of the
-- user (mediation "conditional").
ALTER TABLE challenges ADD COLUMN conditional boolean NOT NULL DEFAULT false;
