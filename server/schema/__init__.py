"""The JSON of the API as msgspec structs: requests (which validate) and responses (which only encode).

Unknown fields of requests are accepted and ignored, as OpenAI's clients send many; fields that would change the answer
and are not supported are declared and refused with a message. Knows JSON, not how anything is computed.
"""
