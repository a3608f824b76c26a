"""Owns second factors: authenticator apps, passkeys and recovery codes.

Entry classes: `Factors`, `SecondFactors`, `FactorProofs`, `Passkeys` and `TotpEnrollments`.
"""
