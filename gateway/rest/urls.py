"""Routes of deployments, each with and without a trailing slash, as LiteLLM's clients call them."""

from django.urls import re_path

from gateway.rest.models import DeleteModel, ModelInfo, ModelInfoPage, NewModel, PatchModel, UpdateModel, UpstreamModels
from tenants.rest.views import UnknownRoute

urlpatterns = [
    re_path(r"^model/new/?$", NewModel.as_view()),
    re_path(r"^model/update/?$", UpdateModel.as_view()),
    re_path(r"^model/delete/?$", DeleteModel.as_view()),
    re_path(r"^(?:v1/)?model/info/?$", ModelInfo.as_view()),
    re_path(r"^v2/model/info/?$", ModelInfoPage.as_view()),
    re_path(r"^model/upstream/?$", UpstreamModels.as_view()),
    re_path(r"^model/(?P<model_id>.+)/update/?$", PatchModel.as_view()),
    re_path(r"^model/", UnknownRoute.as_view()),
]
