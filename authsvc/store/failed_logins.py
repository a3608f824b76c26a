"""Owns the reset of an account's consecutive failed logins, and explains how they are counted.

At most `brute_force.max_consecutive_failures` logins may fail in a row at one account, across all
replicas and all ways to log in (NIST SP 800-63B-4, section 3.2.2, allows 100). With a single count,
any stranger could lock the user out by using it up. So there are two counts, and each may reach
half of the limit (`BruteForce.max_failures`):

- `users.failed_device_logins` counts failures from known devices, which are those that have logged
  in to the account before (table devices). All of them share one count: with a count for each
  device, the counts of an account could add up to more than the limit. A second factor is counted
  here too if the first was proved by another provider, as no stranger gets that far.
- `users.failed_logins` counts all others. When it is used up, the user can still log in from a
  known device, after a password reset, by passkey, or through another provider.

Only what can be guessed is counted: a passkey's signature, a provider's answer and a password reset
code are evaluated without a claim (`users.find_credential`).

A known device whose count is used up is treated as unknown (`users.find_login_subject`). An attempt
is counted before its proof is evaluated (`users.claim_attempt`), and released if it led to no
evaluation (`users.release_attempt`). A successful login, with its second factor if one is required,
resets both counts, wherever it came from. The limits over time are divided likewise: a known device
is charged instead of the account (`BruteForce.charge_guess`).

The columns have no table alias, so the fragments fit only statements that update just users.
"""

FORGET_FAILURES = "failed_logins = 0, failed_device_logins = 0"

# What one correct proof resets: nothing if a second factor is required; otherwise anybody who knows
# the password could guess codes forever.
FORGET_FAILURES_BY_ONE_PROOF = """
    failed_logins = CASE WHEN has_second_factor THEN failed_logins ELSE 0 END,
    failed_device_logins = CASE WHEN has_second_factor THEN failed_device_logins ELSE 0 END
"""
