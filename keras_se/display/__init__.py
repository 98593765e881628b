"""How reports are shown: as text and JSON, and as pages of HTML that ask the network nothing."""
