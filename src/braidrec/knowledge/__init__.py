"""Item and user texts, the encoders that read them, and the knowledge base that keeps their vectors by id."""
