"""The whole of rebound in one terminal, on a Kafka broker and a Redis server that it starts by itself."""
