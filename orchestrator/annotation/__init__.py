"""What people are asked and what they have answered: packages, answers, and their merge into a ledger."""
