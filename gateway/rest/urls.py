"""Routes of deployments, of explain, of the schema of /api/ and of the token counter, with and without a trailing
slash."""

from django.urls import re_path

from gateway.rest.api_docs import Schema, show_docs
from gateway.rest.deployment_resource import Deployments
from gateway.rest.explain import Explain
from gateway.rest.health import Health
from gateway.rest.model_info import ModelGroupInfo, ModelInfo
from gateway.rest.model_test import ModelTest
from gateway.rest.models import (
    BlockModel,
    DeleteModel,
    ModelInfoPage,
    NewModel,
    PatchModel,
    UnblockModel,
    UpdateModel,
    UpstreamModels,
)
from gateway.rest.price_drafts import PriceDrafts
from gateway.rest.prices import Contracts, Prices, RepriceJobs, UnpricedModels
from gateway.rest.routing_settings import RoutingSettings
from gateway.rest.spend_calculation import CalculateSpend
from gateway.rest.token_counter import CountTokens
from tenants.api.resource import UnknownResource
from tenants.api.urls import routes_of
from tenants.rest.views import UnknownRoute

urlpatterns = [
    re_path(r"^utils/token_counter/?$", CountTokens.as_view()),
    re_path(r"^api/explain/?$", Explain.as_view({"post": "explain"})),
    re_path(r"^api/schema/?$", Schema.as_view()),
    re_path(r"^api/docs/?$", show_docs),
    *routes_of("api/deployments", Deployments),
    re_path(
        r"^api/routing-settings/?$",
        RoutingSettings.as_view({"get": "show", "put": "replace", "patch": "update"}),
    ),
    re_path(r"^api/prices/?$", Prices.as_view({"get": "list_prices", "post": "set"})),
    re_path(r"^api/price-drafts/?$", PriceDrafts.as_view({"get": "list_drafts"})),
    re_path(r"^api/price-drafts/accept/?$", PriceDrafts.as_view({"post": "accept"})),
    re_path(r"^api/price-drafts/reject/?$", PriceDrafts.as_view({"post": "reject"})),
    re_path(r"^api/contracts/?$", Contracts.as_view({"get": "list_prices", "post": "set"})),
    re_path(r"^api/contracts/(?P<price_id>[^/]+)/end/?$", Contracts.as_view({"post": "end"})),
    re_path(r"^api/unpriced-models/?$", UnpricedModels.as_view({"get": "list_models"})),
    re_path(r"^api/reprice-jobs/?$", RepriceJobs.as_view({"get": "list_jobs", "post": "create"})),
    re_path(r"^api/reprice-jobs/(?P<reprice_job_id>[^/]+)/cancel/?$", RepriceJobs.as_view({"post": "cancel"})),
    re_path(r"^api/reprice-jobs/(?P<reprice_job_id>[^/]+)/?$", RepriceJobs.as_view({"get": "show"})),
    re_path(r"^api/", UnknownResource.as_view()),
    re_path(r"^model/new/?$", NewModel.as_view()),
    re_path(r"^model/update/?$", UpdateModel.as_view()),
    re_path(r"^health/?$", Health.as_view()),
    re_path(r"^model/block/?$", BlockModel.as_view()),
    re_path(r"^model/unblock/?$", UnblockModel.as_view()),
    re_path(r"^model/delete/?$", DeleteModel.as_view()),
    re_path(r"^(?:v1/)?model/info/?$", ModelInfo.as_view()),
    re_path(r"^model_group/info/?$", ModelGroupInfo.as_view()),
    re_path(r"^v2/model/info/?$", ModelInfoPage.as_view()),
    re_path(r"^model/test/?$", ModelTest.as_view()),
    re_path(r"^model/upstream/?$", UpstreamModels.as_view()),
    re_path(r"^model/(?P<model_id>.+)/update/?$", PatchModel.as_view()),
    re_path(r"^model/", UnknownRoute.as_view()),
    re_path(r"^spend/calculate/?$", CalculateSpend.as_view()),
    re_path(r"^spend/", UnknownRoute.as_view()),
]
