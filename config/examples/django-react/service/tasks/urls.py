"""REST: /api/tasks/, and whether the service lives."""

from django.http import JsonResponse
from django.urls import include, path
from rest_framework import routers, serializers, viewsets

from tasks.models import Task


class TaskSerializer(serializers.ModelSerializer):
    class Meta:
        model = Task
        fields = ["id", "title", "made_by"]
        read_only_fields = ["made_by"]


class Tasks(viewsets.ModelViewSet):
    queryset = Task.objects.all()
    serializer_class = TaskSerializer

    def perform_create(self, serializer):
        serializer.save(made_by=self.request.META["REMOTE_ADDR"])


def healthz(request):
    return JsonResponse({"status": "ok", "tasks": Task.objects.count()})


router = routers.DefaultRouter()
router.register("tasks", Tasks)
urlpatterns = [path("healthz", healthz), path("api/", include(router.urls))]
