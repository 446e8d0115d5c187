"""From files, frames and public archives to checked `Tables`: nothing is numbered or split here."""
