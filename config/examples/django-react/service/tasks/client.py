"""The client's address, as the nginx on this host has it from the gate."""


class ClientAddress:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        # Nobody but that nginx connects to a gunicorn that listens on loopback.
        announced = request.headers.get("X-Real-IP")
        if announced:
            request.META["REMOTE_ADDR"] = announced
        return self.get_response(request)
